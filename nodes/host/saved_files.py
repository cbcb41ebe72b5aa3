"""Files that nodes saved, in ComfyUI's output folder and in its input folder. Imported at ComfyUI's door."""

import os
from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
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
            f"Cannot find the file {shown(repr(name))} with {what}. Put it into {folder_paths.get_input_directory()}; "
            f"its name must end with {end}. Press R to refresh the list, and choose it again."
        )
    return path


def fingerprint(name: str, end: str) -> str:
    """Of the file's path, size and time: the node runs again if one changes."""
    return folders.fingerprint_of(lambda: str(resolve(name, end, "")), name)
