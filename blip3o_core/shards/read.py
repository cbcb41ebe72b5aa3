"""A shard folder, read at any item. Only the manifest is in memory, and a few shards are open at a time."""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from ..errors import Blip3oError, first_line, shown
from ..files import open_regular, parse_json
from .layout import BLOCK, REMEDY, ShardFacts, ends_of, index_of, member_starts, read_facts, rounded, row_of
from .manifest import MANIFEST, Manifest, read_manifest
from .write import Record

_OPEN = 64  # shards


@dataclass(frozen=True)
class Stored:
    """A record, and what messages call its image and its references: `folder/shard.tar:0001.jpg`."""

    record: Record
    names: tuple[str, ...]


class ShardFolder:
    """The items of a folder that has a manifest. Any thread may read."""

    def __init__(self, folder: Path):
        """Reads the manifest alone; `faults` looks at the shards."""
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self.counts = [shard.items for shard in self.manifest.shards]
        self._ends = list(accumulate(self.counts))
        self._shards: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def find(self, number: int) -> tuple[int, int]:
        """The shard of an item, and the item's number in it."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def read(self, shard: int, item: int) -> Stored:
        """One item. Raises Blip3oError when the shard has changed since its manifest was written."""
        return self._open(shard).read(item)

    def num_references(self, shard: int, item: int) -> int:
        return len(self._open(shard).row(item)[1]) - 2

    def texts(self, shard: int) -> Iterator[tuple[str, ...]]:
        """The texts of all items of a shard, without their images."""
        opened = self._open(shard)
        return map(opened.texts, range(self.counts[shard]))

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.manifest.shards[shard].name}.tar"

    def fault(self, shard: int) -> str | None:
        """What is wrong with a shard, by its size, its first and last bytes, and its index; None when nothing is."""
        facts, path = self.manifest.shards[shard], self.path(shard)
        try:
            size, ends = ends_of(path)
            if size != facts.bytes:
                short = "was cut short" if size < facts.bytes else "is a different file"
                return f"{shown(path)} has {size:,} bytes, and {MANIFEST} says {facts.bytes:,}: it {short}. {REMEDY}"
            if ends != facts.ends:
                return f"{shown(path)} is not the shard that {MANIFEST} names: its bytes are others. {REMEDY}"
            if read_facts(path) != facts:
                return f"{shown(index_of(path))} is not the index of the shard that {MANIFEST} names. {REMEDY}"
        except Blip3oError as error:
            return str(error)
        except OSError as error:
            return f"{shown(path)} cannot be read: {first_line(error)}. {REMEDY}"
        return None

    def _open(self, shard: int) -> "_OpenShard":
        with self._lock:
            found = self._shards.pop(shard, None)
            if found is None:
                found = _OpenShard(self.path(shard), self.manifest.shards[shard])
            self._shards[shard] = found
            while len(self._shards) > _OPEN:
                self._shards.popitem(last=False)  # it closes when the last thread has read
        return found


class _OpenShard:
    """The two files of a shard."""

    def __init__(self, path: Path, facts: ShardFacts):
        self.path, self.facts = path, facts
        self._row = row_of(facts.most_references)
        self._tar, self._index = _File(path), _File(index_of(path))

    def row(self, item: int) -> tuple[int, tuple[int, ...]]:
        """Where an item begins, and the sizes of its image, its references and its text."""
        first, image, *references, text = self._row.unpack(self._index.read(self.facts.row_place(item), self._row.size))
        return first, (image, *filter(None, references), text)

    def read(self, item: int) -> Stored:
        first, sizes = self.row(item)
        data = self._tar.read(first, sum(BLOCK + rounded(size) for size in sizes))
        spans = [(start, start + size) for start, size in zip(member_starts(0, sizes), sizes, strict=True)]
        names = [self._name(data[start - BLOCK : start], end - start) for start, end in spans]
        image, *references, text = (data[start:end] for start, end in spans)
        entry = self._entry(text, names[-1])
        key = entry.get("key", names[-1].rpartition(":")[2].removesuffix(".json"))
        texts = self._texts_in(entry, bool(references), names[-1])
        return Stored(Record(key, image, tuple(references), texts, entry.get("facts", {})), tuple(names[:-1]))

    def texts(self, item: int) -> tuple[str, ...]:
        first, sizes = self.row(item)
        *_, start = member_starts(first, sizes)
        data = self._tar.read(start - BLOCK, BLOCK + sizes[-1])
        name = self._name(data[:BLOCK], sizes[-1])
        return self._texts_in(self._entry(data[BLOCK:], name), len(sizes) > 2, name)

    def _entry(self, text: bytes, name: str) -> dict:
        entry = parse_json(text.decode("utf-8", "replace"), name, REMEDY)
        if not isinstance(entry, dict):
            raise self._changed(f"{name} has no text of an item")
        return entry

    def _texts_in(self, entry: dict, edit: bool, name: str) -> tuple[str, ...]:
        texts = entry.get("instruction" if edit else "caption")
        if texts is None and not edit:
            return ()
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._changed(f"{name} has no text of an item")
        return tuple(texts)

    def _name(self, header: bytes, size: int) -> str:
        """What messages call a member. Raises Blip3oError unless its header is at its place and says its size."""
        name, said = header[:100].rstrip(b"\0").decode("ascii", "replace"), header[124:135]
        if header[257:262] != b"ustar" or not said.isdigit() or int(said, 8) != size:
            raise self._changed("an item does not begin where the index says")
        return f"{self.path}:{name}"

    def _changed(self, reason: str) -> Blip3oError:
        return Blip3oError(f"{shown(self.path)} does not fit its index: {reason}. {REMEDY}")


class _File:
    """A file that several threads read at places of their own. It closes when nobody needs it any more."""

    def __init__(self, path: Path):
        self._path, self._stream = path, open_regular(path, REMEDY)
        self._lock = threading.Lock()

    def read(self, place: int, size: int) -> bytes:
        try:
            data = self._read(self._stream, place, size)
        except OSError as error:
            raise Blip3oError(f"{shown(self._path)} cannot be read: {first_line(error)}. {REMEDY}") from error
        if len(data) < size:
            raise Blip3oError(f"{shown(self._path)} is cut short: it has changed since it was written. {REMEDY}")
        return data

    def _read(self, stream: BinaryIO, place: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(stream.fileno(), size, place)
        with self._lock:  # Windows
            stream.seek(place)
            return stream.read(size)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()
