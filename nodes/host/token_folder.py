"""Which files of image tokens ComfyUI's folders hold. Imported at ComfyUI's door, so it imports nothing heavy."""

import hashlib
import os
from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.files import open_regular

SUFFIX = ".safetensors"
SAVED = "tokens"  # the folder in output that BLIP3o Load Tokens lists
OUTPUT = " [output]"  # ComfyUI's mark of a name in its output folder
NO_FILE = "tokens.safetensors"  # what is listed where there is no file: with an empty list nothing could be chosen
WHERE = (
    "Save tokens with BLIP3o Save Tokens, or copy a file into ComfyUI's input folder, press R to refresh the list, and "
    "choose it again."
)


def files() -> list[str]:
    """Names for the list of BLIP3o Load Tokens. Never raises."""
    saved = Path(folder_paths.get_output_directory(), SAVED)
    names = _in(Path(folder_paths.get_input_directory())) + [f"{SAVED}/{name}{OUTPUT}" for name in _in(saved)]
    return names or [NO_FILE]


def _in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX) and entry.is_file())
    except OSError:
        return []


def resolve(name: str) -> Path:
    try:
        path = Path(folder_paths.get_annotated_filepath(name))
    except (TypeError, ValueError, AttributeError):
        raise Blip3oError(f"file is {shown(repr(name))}, which is outside of ComfyUI's folders. {WHERE}") from None
    if not os.path.lexists(path):
        raise Blip3oError(f"Cannot find the file {shown(repr(name))}. {WHERE}")
    return path


def fingerprint(name: str) -> str:
    """Of a file's content: the loader runs again when another file has the name."""
    try:
        with open_regular(resolve(name), WHERE) as file:
            digest = hashlib.sha256()
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
        return digest.hexdigest()[:16]
    except (OSError, Blip3oError):  # the loader says what is wrong
        return ""
