"""The files of a source: opened or reported, and what tells whether one has changed since it was measured."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ...errors import Blip3oError, shown
from ...files import open_regular
from ..sample import Broken, Sample
from .groups import reason_of
from .pieces import Piece

REMEDY = "Copy it again from where it came from."


def read_file(piece: Piece, read: Callable[[BinaryIO, str], Iterator[Sample | Broken]]) -> Iterator[Sample | Broken]:
    """What `read` finds in the opened file of a piece; its second argument is the file's place. A file that cannot be
    opened is reported.
    """
    place = shown(piece.path, 4096)
    try:
        stream = open_regular(Path(piece.path), REMEDY)
    except Blip3oError as error:
        yield Broken(place, reason_of(error, place))
        return
    with stream:
        yield from read(stream, place)


class Watched:
    """What changes when one of some files does: names, sizes and times of change."""

    def __init__(self, *files: Path):
        self._seen = hashlib.sha256()
        for file in files:
            self.add(file)

    def add(self, file: Path) -> None:
        try:
            facts = os.stat(file)
            said = f"{facts.st_size} {facts.st_mtime_ns}"
        except (OSError, ValueError):  # it is reported when it is read, and may be there in the next run
            said = "missing"
        self.note(f"{file}\0{said}\0".encode("utf-8", "surrogatepass"))

    def note(self, data: bytes) -> None:
        """Bytes that belong to the files."""
        self._seen.update(data)

    def state(self) -> str:
        return self._seen.hexdigest()[:32]
