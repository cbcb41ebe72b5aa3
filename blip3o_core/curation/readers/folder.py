"""Samples from a folder of images with texts beside them: 0001.jpg and 0001.txt, .caption or .json.

Names mean what they mean in a shard, see `shards/naming.py`; so an unpacked shard reads as the shard does.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...errors import shown
from ...files import read_bytes
from ..sample import Broken, Sample
from .groups import Group
from .options import Options
from .pieces import Piece, safe_name
from .source_files import Watched
from .walk import Folder, walk

PIECE_FILES = 1000  # samples
_REMEDY = "Restore it, or remove it from the folder."


@dataclass(frozen=True)
class _File:
    name: str  # in the source, with /
    path: Path

    @property
    def place(self) -> str:
        return shown(self.path, 4096)

    def read(self, limit: int) -> bytes:
        return read_bytes(self.path, _REMEDY, limit)


def folder_pieces(folder: Path, name: str, options: Options) -> Iterator[Piece]:
    pieces: list[Watched] = []
    for count, group in enumerate(group for one in walk(folder) for group in _groups(folder, one)):
        if count % PIECE_FILES == 0:
            pieces.append(Watched())
        for member in group.members():
            pieces[-1].add(folder / member.name)
    for number, watched in enumerate(pieces):
        first = number * PIECE_FILES
        last = first + PIECE_FILES if number + 1 < len(pieces) else None
        several = f"{name}-{number:05d}" if len(pieces) > 1 else name
        yield Piece(several, "folder", str(folder), first, last, options=options.values(), state=watched.state())


def read_folder(piece: Piece) -> Iterator[Sample | Broken]:
    folder, options = Path(piece.path), Options.of(piece.options)
    groups = (group for one in walk(folder) for group in _groups(folder, one))
    for group in islice(groups, piece.first, piece.last):
        yield group.sample(safe_name(group.stem), options)


def _groups(source: Path, folder: Folder) -> Sequence[Group]:
    """The samples of one folder, sorted by name."""
    above = os.path.relpath(folder.path, source).replace(os.sep, "/") + "/"
    groups: dict[str, Group] = {}
    for name in folder.files:
        member = _File(name if above == "./" else above + name, folder.path / name)
        groups.setdefault(Group.stem_of(member.name), Group(Group.stem_of(member.name))).add(member)
    for stem, group in list(groups.items()):
        shorter = stem
        while group.is_bare and "." in shorter.rpartition("/")[2]:
            shorter = shorter.rpartition(".")[0]
            if shorter in groups and group.belongs_to(groups[shorter]):
                groups[shorter].absorb(groups.pop(stem))
                break
    return list(groups.values())
