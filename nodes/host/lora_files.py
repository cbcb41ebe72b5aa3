"""The LoRA files in ComfyUI's `loras` folders."""

from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.weights.lora import FILE
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
