"""The pieces of a source, and the samples of a piece.

A source is a file or a folder: tars, parquet files, lists (JSONL or JSON), or images with texts of the same name. A
folder with tars, parquet files or lists is read from these alone. Links to files and folders are followed wherever they
lead, for a folder of the hub's cache has only links; each folder is read once. Names that begin with a dot are skipped.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import Blip3oError, first_line, shown
from ..sample import Broken, Sample
from .options import Options
from .pieces import Piece, safe_name
from .tar import read_tar
from .walk import walk

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def find_pieces(source: str, options: Mapping[str, Any] | None = None) -> list[Piece]:
    """All pieces, in the order of their paths. Raises Blip3oError for a source that does not exist or is empty."""
    given = Options.of(options or {}).values()
    path = Path(source)
    try:
        is_folder = path.stat() and path.is_dir()
    except (OSError, ValueError) as error:
        raise Blip3oError(
            f"sources names {shown(source)}, which cannot be read: {first_line(error)}. Check the path."
        ) from error
    files = (
        [file for folder, names in walk(path) for file in (folder / name for name in names)] if is_folder else [path]
    )
    return [
        Piece(safe_name(_name(file, path)), "tar", str(file), options=given)
        for file in files
        if file.name.lower().endswith(_TARS)
    ]


def read(piece: Piece) -> Iterator[Sample | Broken]:
    """The samples of a piece, and what could not be read, in their order; one is in memory at a time."""
    readers: dict[str, Callable[[Piece], Iterator[Sample | Broken]]] = {"tar": read_tar}
    return readers[piece.reader](piece)


def _name(file: Path, source: Path) -> str:
    """A file as pieces are named: its path in the source, without its ending."""
    name = file.name if file == source else os.path.relpath(file, source).replace(os.sep, "/")
    ending = next((one for one in _TARS if name.lower().endswith(one)), Path(name).suffix)
    return name.removesuffix(name[len(name) - len(ending) :]) if ending else name
