"""The pieces of a source, and the samples of a piece.

A source is a file or a folder: tars, parquet files, lists (JSONL or JSON), or images with texts beside them. A folder
with tars, parquet files or lists is read from these alone. Links to files and folders are followed wherever they lead,
for a folder of the hub's cache has only links; each folder is read once. Names that begin with a dot are skipped.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import Blip3oError, first_line, shown
from ...shards.naming import IMAGE_SUFFIXES
from ..sample import Broken, Sample
from .folder import folder_pieces, read_folder
from .lists import is_list, list_pieces, read_list
from .options import Options
from .pieces import Piece, safe_name
from .source_files import Watched
from .table import read_table, table_pieces
from .tar import read_tar
from .walk import Folder, walk

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LISTS = (".jsonl", ".ndjson")
_TABLES = (".parquet",)
_ENDINGS = (*_TARS, *_LISTS, *_TABLES, ".json")


def find_pieces(source: str, options: Mapping[str, Any] | None = None) -> list[Piece]:
    """All pieces, in the order of their paths. `options`: see `options.py`.

    Raises Blip3oError for a source that does not exist or has nothing to read. A file that turns out to be damaged
    has a piece; reading it tells.
    """
    given, path = Options.of(options or {}), Path(source)
    try:
        is_folder = path.stat() and path.is_dir()
    except (OSError, ValueError) as error:
        raise Blip3oError(
            f"sources names {shown(source)}, which cannot be read: {first_line(error)}. Check the path."
        ) from error
    pieces = list(_in_folder(path, given) if is_folder else _of_file(path, path, given))
    if not pieces:
        raise Blip3oError(
            f"sources names {shown(source)}, which has nothing to read. Give a .tar, .parquet, .jsonl or .json file, "
            "or a folder with such files or with images."
        )
    return _with_names(pieces, path)


def read(piece: Piece) -> Iterator[Sample | Broken]:
    """The samples of a piece, and what could not be read, in their order; one is in memory at a time."""
    readers: dict[str, Callable[[Piece], Iterator[Sample | Broken]]] = {
        "tar": read_tar,
        "parquet": read_table,
        "list": read_list,
        "folder": read_folder,
        "unread": _read_unread,
    }
    return readers[piece.reader](piece)


def _of_file(file: Path, source: Path, options: Options) -> Iterator[Piece]:
    """The pieces of a file whose ending is known; none for others."""
    lower, name = file.name.lower(), safe_name(_name(file, source))
    if lower.endswith(_TARS):
        yield Piece(name, "tar", str(file), options=options.values(), state=Watched(file).state())
    elif lower.endswith(_TABLES):
        yield from table_pieces(file, name, options)
    elif lower.endswith(_LISTS) or lower.endswith(".json"):
        yield from list_pieces(file, name, options)


def _in_folder(source: Path, options: Options) -> Iterator[Piece]:
    found, unread = False, Counter[str]()
    for folder in walk(source):
        for file in _shards_and_lists(folder, options):
            found = True
            yield from _of_file(file, source, options)
        unread += _others(folder)
    if found and unread:
        words = ", ".join(f"{count:,} {ending}" for ending, count in unread.most_common(8))
        reason = f"Files beside shards, parquet files or lists are not read: {words}. Name their folder as a source."
        yield Piece("others", "unread", str(source), options={"reason": reason})
    elif unread:
        yield from folder_pieces(source, safe_name(source.resolve().name or "images"), options)
    for folder in walk(source):
        if folder.fault:
            reason = f"The folder cannot be read: {folder.fault}. Give yourself the right to read it."
            yield Piece(safe_name(_name(folder.path, source)), "unread", str(folder.path), options={"reason": reason})


def _shards_and_lists(folder: Folder, options: Options) -> Iterator[Path]:
    images = {Path(name).stem for name in folder.files if name.lower().endswith(IMAGE_SUFFIXES)}
    for name in folder.files:
        file, lower = folder.path / name, name.lower()
        if lower.endswith((*_TARS, *_LISTS, *_TABLES)):
            yield file
        elif lower.endswith(".json") and file.stem not in images and is_list(file, options):
            yield file


def _others(folder: Folder) -> Counter[str]:
    """How many files of each ending are left. A shard's index and the manifest of shards are parts of these."""
    names = {name.lower() for name in folder.files}
    has_shards = any(name.endswith(".tar") for name in names)
    left = [
        name
        for name in names
        if not name.endswith((*_TARS, *_LISTS, *_TABLES))
        and not (has_shards and (name.endswith(".index") or name == "manifest.json"))
    ]
    return Counter(shown(Path(name).suffix, 20) or "without an ending" for name in left)


def _read_unread(piece: Piece) -> Iterator[Broken]:
    yield Broken(shown(piece.path, 4096), piece.options["reason"])


def _name(file: Path, source: Path) -> str:
    """A file as pieces are named: its path in the source, without its ending."""
    name = file.name if file == source else os.path.relpath(file, source).replace(os.sep, "/")
    ending = next((one for one in _ENDINGS if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def _with_names(pieces: list[Piece], source: Path) -> list[Piece]:
    """Without two of the same name, such as of a.tar and a.parquet."""
    used: Counter[str] = Counter()
    for number, piece in enumerate(pieces):
        used[piece.name.lower()] += 1
        if used[piece.name.lower()] > 1:
            place = os.path.relpath(piece.path, source).replace(os.sep, "/")
            pieces[number] = Piece(**{**vars(piece), "name": safe_name(f"{piece.name} of {place}, {piece.first}")})
    return pieces
