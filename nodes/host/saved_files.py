"""Files that nodes save into ComfyUI's output folder, and find again there and in the input folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy.cli_args import args

from ...blip3o_core.errors import Blip3oError, first_line, shown
from ...blip3o_core.files import NameTaken, naming_failures
from . import folders

OUTPUT = " [output]"  # how ComfyUI marks a name in its output folder


def names(end: str, folder: str) -> list[str]:
    """The files whose names end with `end`: of the input folder, then of `folder` in the output folder and below it.

    Not of the whole output folder, which may hold all images of years: ComfyUI asks for the lists several times a run.
    """
    inputs = Path(folder_paths.get_input_directory())
    outputs = Path(folder_paths.get_output_directory())
    found = sorted(name for name in _listed(inputs) if name.endswith(end))
    for place, folders_in_it, files in os.walk(outputs / folder):
        folders_in_it.sort()
        inside = Path(place).relative_to(outputs)
        found += [(inside / name).as_posix() + OUTPUT for name in sorted(files) if name.endswith(end)]
    return found


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def resolve(name: str, end: str, what: str) -> Path:
    """A name from `names` -> its path. `what`: what such a file holds, in words."""
    try:
        path = Path(folder_paths.get_annotated_filepath(name)) if name.removesuffix(OUTPUT).endswith(end) else None
    except ValueError:  # a name that leads out of the folder
        path = None
    if path is None or not path.is_file():
        raise Blip3oError(
            f"Cannot find the file {shown(repr(name))} with {what}. Put it into {folder_paths.get_input_directory()}, "
            "press R to refresh the list, and choose it again."
        )
    return path


def fingerprint(name: str, end: str) -> str:
    """Of the file's path, size and time: the node runs again if one changes."""
    return folders.fingerprint_of(lambda: str(resolve(name, end, "")), name)


def save(prefix: str, end: str, write: Callable[[Path, dict[str, str]], None], hidden) -> dict:
    """Write the next free `<prefix>_00001_<end>` in the output folder -> how ComfyUI names it.

    `write(path, metadata)` raises NameTaken where the file exists. `hidden`: of the node, for the workflow to keep.
    """
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except Exception as error:  # the host has no type of its own for it
        raise Blip3oError(
            f"filename_prefix is {shown(repr(prefix))}: {first_line(error)} Choose a name inside the output folder."
        ) from error
    while True:
        file = f"{name}_{counter:05}_{end}"
        try:
            with naming_failures(Path(folder, file)):
                write(Path(folder, file), _metadata(hidden))
        except NameTaken:  # by another process, in the meantime
            counter += 1
            continue
        return {"filename": file, "subfolder": subfolder, "type": "output"}


def _metadata(hidden) -> dict[str, str]:
    """The prompt and the workflow as ComfyUI's own savers store them, unless the server was told not to."""
    if args.disable_metadata:
        return {}
    kept = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    return kept | {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}
