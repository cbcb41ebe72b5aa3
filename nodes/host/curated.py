"""The folder below ComfyUI's output folder in which curations are, and the shards in it."""

from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.shards.manifest import read_manifest
from ...blip3o_core.shards.read import ShardFolder

FOLDER = "curated"  # in the output folder


def root() -> Path:
    return Path(folder_paths.get_output_directory()).absolute() / FOLDER


def is_inside(path: Path) -> bool:
    """Whether a path is in the output folder, whatever links lead to."""
    return folder_paths.is_within_directory(folder_paths.get_output_directory(), str(path))


def shards(name: str) -> ShardFolder:
    """The shards of a folder that BLIP3o Curate Images wrote. Raises Blip3oError for any other."""
    folder = root() / name.strip()
    if not name.strip() or not folder_paths.is_within_directory(str(root()), str(folder)) or not is_inside(folder):
        raise Blip3oError(
            f"shards is {shown(repr(name))}. It must be a folder of shards in output/{FOLDER}: connect shards of "
            "BLIP3o Curate Images. `blip3o train` on the command line reads other places."
        )
    found = ShardFolder(folder)
    if not len(found):
        raise Blip3oError(
            f"{shown(folder)} has no images, so there is nothing to learn from. Loosen the limits of BLIP3o Curate "
            "Images, or choose another folder there."
        )
    return found


def fingerprint(name: str | None) -> str:
    """Of what is in the shards: the node runs again if it changes. '' where that cannot be said."""
    try:
        return read_manifest(root() / name.strip()).identity
    except (AttributeError, Blip3oError):  # connected, or the node says what is wrong
        return ""
