"""A piece: what one worker reads at a time. Its name is also the name of the shard that is made of it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LONGEST = 80  # characters of a name


@dataclass(frozen=True)
class Piece:
    """A part of a source: plain values only, so that it travels between processes and through JSON.

    `dataclasses.asdict(piece)` gives the values, `Piece(**values)` the piece. Reading it twice gives the same.
    """

    name: str  # unique in its source, and safe as a file name; the same on each machine and in each run
    reader: str  # "tar", "folder", "list" or "parquet"
    path: str  # the file or folder
    first: int = 0  # of its files, lines or row groups, counted from 0
    last: int | None = None  # the first that belongs to the next piece; None: the piece goes to the end
    start: int = 0  # the byte of a list where `first` begins
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the source, see `options.py`
    state: str = ""  # another one when a file that it is read from has changed, see `source_files.py`


def safe_name(text: str) -> str:
    """A name for files and keys: letters, digits, - and _. Different texts have different names."""
    name = re.sub(r"[^\w-]", "_", text)[:_LONGEST]
    if name == text and text:
        return name
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{name}-{digest}"
