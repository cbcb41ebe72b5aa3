"""Records -> a shard and its index, each under its name only when it is whole; the same bytes every time."""

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import Blip3oError, first_line, shown
from ..files import LINE_LIMIT, atomic_write, naming_failures
from ..images.reader import MAX_BYTES
from .layout import BLOCK, ShardFacts, ends_of, header_of, index_of, rounded, row_of
from .texts import is_unicode

# What names of members begin with. webdataset ends it at the first dot; 64 letters fit the header of every tar.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_REFERENCES = 99


@dataclass(frozen=True)
class Record:
    """An item of a shard: bytes of image files, as they are, and what is said of them."""

    key: str  # unique in its shard
    image: bytes  # the target
    references: tuple[bytes, ...] = ()
    texts: tuple[str, ...] = ()  # captions, or an edit's instructions, that mean the same; () for a reconstruction
    facts: Mapping[str, Any] = field(default_factory=dict)  # for people and programs; training does not read them


def write_shard(path: Path, records: Iterable[Record]) -> ShardFacts:
    """Write `path`, which ends with .tar, and the index beside it. Needs the memory of one record and of the index.

    Raises Blip3oError for a record that no shard can hold, and leaves nothing then. An existing shard is replaced.
    """
    if path.suffix != ".tar":
        raise ValueError(f"{path} must end with .tar")
    with contextlib.ExitStack() as stack:
        with naming_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Left in reverse: where the .tar has its name, the index has it too.
            tar = stack.enter_context(atomic_write(path, durable=True))
            index = stack.enter_context(atomic_write(index_of(path), durable=True))
            stream = stack.enter_context(open(tar, "wb"))
        shard = _Shard(path, stream)
        for record in records:
            shard.append(record)
        with naming_failures(path):
            facts = shard.finish(tar)
            index.write_bytes(header_of(facts) + shard.index())
            stack.pop_all().close()  # both get their names
    return facts


class _Shard:
    """A .tar that grows by one record after the other."""

    def __init__(self, path: Path, stream: BinaryIO):
        self.path, self._stream, self._digest = path, stream, hashlib.sha256()
        self._end = 0
        self._keys: set[str] = set()
        self._rows: list[tuple[int, tuple[int, ...]]] = []  # where an item begins, and the sizes of its members
        self._captions = self._edits = self._longest = 0

    def append(self, record: Record) -> None:
        where = f"{self.path}: the item {shown(repr(record.key), 80)}"
        key = _name_of(record.key)
        if key in self._keys:
            raise Blip3oError(f"{where} is there twice. Give every item of a shard a key of its own.")
        texts = _texts(record, where)
        members = list(_members(key, record, texts, where))
        self._keys.add(key)
        self._rows.append((self._end, tuple(len(data) for _, data in members)))
        self._captions += bool(texts) and not record.references
        self._edits += bool(record.references)
        self._longest = max([self._longest, *(len(text.encode()) for text in texts)])
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            self._put(header.tobuf(tarfile.USTAR_FORMAT))
            self._put(data)
            self._put(bytes(rounded(len(data)) - len(data)))

    def finish(self, tar: Path) -> ShardFacts:
        self._put(bytes(2 * BLOCK))
        self._stream.close()
        size, ends = ends_of(tar)
        items = len(self._rows)
        counts = self._captions, self._edits, items - self._captions - self._edits
        return ShardFacts(
            self.path.stem, items, size, self._digest.hexdigest(), ends, *counts, self._most, self._longest
        )

    def index(self) -> bytes:
        row, most = row_of(self._most), self._most
        return b"".join(
            row.pack(first, *sizes[:-1], *(0 for _ in range(most + 2 - len(sizes))), sizes[-1])
            for first, sizes in self._rows
        )

    @property
    def _most(self) -> int:
        """References of the item with most of them."""
        return max((len(sizes) - 2 for _, sizes in self._rows), default=0)

    def _put(self, data: bytes) -> None:
        with naming_failures(self.path):
            self._stream.write(data)
        self._digest.update(data)
        self._end += len(data)


def _name_of(key: str) -> str:
    """What the names of an item's members begin with: the key, or a name made of a key that has other letters."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', key)[:48]}-{digest}"


def _texts(record: Record, where: str) -> tuple[str, ...]:
    texts = tuple(text.strip() for text in record.texts if text.strip())
    for text in texts:
        if not is_unicode(text):
            raise Blip3oError(f"{where} has half a character in its text {shown(repr(text))}. Write it anew.")
    if record.references and not texts:
        raise Blip3oError(f"{where} has references and no instruction. Give it an instruction, or leave it out.")
    if len(record.references) > _MOST_REFERENCES:
        raise Blip3oError(
            f"{where} has {len(record.references)} references; at most {_MOST_REFERENCES} make sense. Leave some out."
        )
    return texts


def _members(key: str, record: Record, texts: tuple[str, ...], where: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the image, its references and the text."""
    yield f"{key}.{ending_of(record.image, where)}", record.image
    for number, image in enumerate(record.references, 1):
        yield f"{key}.reference{number}.{ending_of(image, where)}", image
    content: dict[str, Any] = {"instruction" if record.references else "caption": list(texts) or None}
    if record.facts:
        content["facts"] = dict(record.facts)
    if key != record.key:
        content["key"] = record.key
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise Blip3oError(
            f"{where} has facts that JSON cannot hold: {first_line(error)}. Give finite numbers, texts and lists."
        ) from None
    if len(text) > LINE_LIMIT:
        raise Blip3oError(f"{where} has {len(text):,} bytes of text; at most {LINE_LIMIT:,} fit. Leave it out.")
    yield f"{key}.json", text


def ending_of(image: bytes, where: str) -> str:
    """The ending of an image file's name, from its first bytes."""
    if len(image) > MAX_BYTES:
        raise Blip3oError(f"{where} has an image of {len(image):,} bytes; at most {MAX_BYTES:,} fit. Leave it out.")
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    for start, ending in _STARTS.items():
        if image.startswith(start):
            return ending
    raise Blip3oError(
        f"{where} has an image in no format that a shard holds ({', '.join(dict.fromkeys(_STARTS.values()))}, webp, "
        "avif). Save the image as one of them, or leave it out."
    )


_STARTS = {
    b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif",
}  # fmt: skip
