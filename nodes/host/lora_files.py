"""The LoRA files in ComfyUI's `loras` folders."""

import os
import shutil
from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.files import check_writable
from ...blip3o_core.training.run_folder import new_folder
from ...blip3o_core.weights.lora import CONFIG, FILE
from . import folders

FOLDER = "loras"


def names() -> list[str]:
    """The `.safetensors` files, with the folder they lie in. Without any, the name that peft gives its files.

    With an empty list nothing could be chosen, and no run say what is missing.
    """
    found = [name.replace("\\", "/") for name in folder_paths.get_filename_list(FOLDER)]
    return [name for name in found if name.lower().endswith((".safetensors", ".sft"))] or [FILE]


def resolve(name: str) -> Path:
    """A name from the list -> its path. Raises Blip3oError for any other."""
    path = folder_paths.get_full_path(FOLDER, name) if name in names() else None
    if path is None:
        places = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise Blip3oError(
            f"Cannot find the LoRA {shown(repr(name))} in {places}. Put its .safetensors file there, or the whole "
            "folder `adapter` that training wrote, press R to refresh the list, and choose it again."
        )
    return Path(path)


def fingerprint(name: str) -> str:
    """Of the file's path, size and time, and of those of its configuration: the node runs again if one changes."""
    own = folders.fingerprint_of(lambda: str(resolve(name)), name)
    return own + folders.fingerprint_of(lambda: str(resolve(name).with_name("adapter_config.json")), name)


def check_new(name: str) -> None:
    """Raise Blip3oError unless a new LoRA may have this name."""
    check_writable([_free(name)], "file_name")


def save_new(name: str, source: Path) -> str:
    """Copy what peft wrote into the folder `source` to a new folder of this name -> the name of the LoRA in it.

    The folder appears whole. Where its name is taken it gets a number.
    """
    target = _free(name)
    with new_folder(target) as staging:
        for file in (FILE, CONFIG):
            shutil.copyfile(source / file, staging / file)
    return (target / FILE).relative_to(_root()).as_posix()


def _root() -> Path:
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


def _free(name: str) -> Path:
    """The first free path for a name. Raises Blip3oError for a name that leads out of the folder."""
    plain = name.strip().removesuffix(".safetensors").strip("/")
    target, number = _root() / plain, 1
    inside = "\0" not in plain and folder_paths.is_within_directory(str(_root()), str(target))
    if not plain or not inside or not target.name.strip(".") or target == _root():
        raise Blip3oError(
            f"file_name is {shown(repr(name))}. It must name a new folder in models/loras, such as 'my-lora'."
        )
    while os.path.lexists(target):
        number += 1
        target = (_root() / plain).with_name(f"{Path(plain).name}_{number:05}")
    return target
