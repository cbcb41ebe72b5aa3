"""Prompt files in ComfyUI's input folder. Imported at ComfyUI's door."""

import os
from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from . import folders

NONE = "the prompts above"
ENDS = (".jsonl", ".json", ".csv", ".txt")


def names() -> list[str]:
    """The choice of no file, then the files of the input folder. Never raises."""
    try:
        found = sorted(one.name for one in os.scandir(_root()) if one.name.lower().endswith(ENDS) and one.is_file())
    except OSError:
        found = []
    return [NONE, *found]


def resolve(name: str) -> Path:
    """A name from the list -> its path. Raises Blip3oError for any other."""
    if name not in names()[1:]:
        raise Blip3oError(
            f"Cannot find the prompt file {shown(repr(name))} in {_root()}. Put it there ({', '.join(ENDS)}), press R "
            "to refresh the list, and choose it again."
        )
    return _root() / name


def fingerprint(name: str) -> str:
    """Of the file's path, size and time: the node runs again if one changes."""
    return folders.fingerprint_of(lambda: str(resolve(name)), name)


def _root() -> Path:
    return Path(folder_paths.get_input_directory())
