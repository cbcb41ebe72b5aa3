"""The folders in ComfyUI's input folder, from which a node may read images, and one of examples. Imported at
ComfyUI's door.

A workflow names a folder of this list and no other place. A link counts: only the user can have made it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from . import folders

LEVELS, MOST = 2, 1000  # folders below the input folder, and how many of them are listed
EXAMPLE = "night (example images)"
_EXAMPLE = Path(__file__).parents[1] / "example_images"  # written by tools/example_images.py


def names() -> list[str]:
    """Paths in the input folder, with '/', then the examples."""
    return [*(name for name, _ in zip(_below(_root(), "", LEVELS), range(MOST), strict=False)), EXAMPLE]


def resolve(name: str) -> Path:
    """A name from the list -> its path. Raises Blip3oError for any other."""
    if name == EXAMPLE:
        return _EXAMPLE
    path = _root() / name if name in names() else None
    if path is None or not path.is_dir():
        raise Blip3oError(
            f"Cannot find the folder {shown(repr(name))} in {_root()}. Make it there and put images and their captions "
            "into it, or link a folder from elsewhere there. Press R to refresh the list, and choose it again."
        )
    return path


def fingerprint(name: str) -> str:
    """Of what a curation would read, with sizes and times of its files: the node runs again if one changes."""
    try:
        from ...blip3o_core.curation.readers.find import find_pieces
        from ...blip3o_core.curation.work import digest

        return digest([vars(piece) for piece in find_pieces(str(resolve(name)))])
    except (ImportError, Blip3oError):  # the node says what is wrong
        return folders.fingerprint_of(lambda: str(_root() / name), name)


def _root() -> Path:
    return Path(folder_paths.get_input_directory())


def _below(folder: Path, before: str, levels: int) -> Iterator[str]:
    try:
        found = sorted(one.name for one in os.scandir(folder) if not one.name.startswith(".") and one.is_dir())
    except OSError:
        return
    for name in found:
        yield before + name
        if levels > 1:
            yield from _below(folder / name, f"{before}{name}/", levels - 1)
