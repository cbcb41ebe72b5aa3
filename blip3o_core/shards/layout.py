"""What the files of a shard folder look like.

    NAME.tar      KEY.jpg (or .png, .webp, ...: the target's own bytes), KEY.reference1.jpg, ..., KEY.json, one item
                  after the other; the .json is {"caption": [...]}, {"instruction": [...]} for an edit or
                  {"caption": null} for a reconstruction, with "facts" about the item
    NAME.index    a header with the shard's facts, then a row of the same width for every item: where its first member
                  begins and how large its members are
    manifest.json the facts of all shards

The .tar is what webdataset and `tar` read. Nothing in it depends on who wrote it, or when.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Blip3oError, shown
from ..files import open_regular

BLOCK = 512  # bytes: a member's header, and what members are rounded up to
ENDS = 4096  # bytes at the start and at the end of a shard by which it is known again
REMEDY = "Write the shard again, or copy it again from where it came from."

_MAGIC, _VERSION = b"B3OINDEX", 1
_HEADER = struct.Struct("<8sII6Q32s32s")


@dataclass(frozen=True)
class ShardFacts:
    """What a reader needs to know of a shard without opening it."""

    name: str  # without .tar
    items: int
    bytes: int  # of the .tar
    sha256: str  # of the .tar
    ends: str  # SHA-256 of its first and last bytes
    captions: int  # items with captions
    edits: int  # items with references
    reconstructions: int  # items without a text
    most_references: int
    longest_text: int  # bytes of UTF-8

    @property
    def width(self) -> int:
        """Bytes of an item in the index."""
        return row_of(self.most_references).size

    @property
    def index_bytes(self) -> int:
        return _HEADER.size + self.width * self.items

    def row_place(self, number: int) -> int:
        """Where an item's row begins in the index."""
        return _HEADER.size + self.width * number


def row_of(most_references: int) -> struct.Struct:
    """The place of an item's first member, then the sizes of its image, its references (0: none) and its text."""
    return struct.Struct(f"<Q{2 + most_references}I")


def header_of(facts: ShardFacts) -> bytes:
    counts = (
        facts.items, facts.bytes, facts.captions, facts.edits, facts.reconstructions, facts.longest_text
    )  # fmt: skip
    digests = bytes.fromhex(facts.sha256), bytes.fromhex(facts.ends)
    return _HEADER.pack(_MAGIC, _VERSION, facts.most_references, *counts, *digests)


def read_facts(tar: Path) -> ShardFacts:
    """What the index of a shard says of it. Raises Blip3oError for an index that is cut short or something else."""
    index = index_of(tar)
    with open_regular(index, REMEDY) as stream:
        header, size = stream.read(_HEADER.size), stream.seek(0, 2)
    if len(header) < _HEADER.size or header[:8] != _MAGIC:
        raise Blip3oError(f"{shown(index)} is not the index of a shard. {REMEDY}")
    _, version, references, items, nbytes, captions, edits, plain, longest, digest, ends = _HEADER.unpack(header)
    if version != _VERSION:
        raise Blip3oError(
            f"{shown(index)} has version {version} of the format, and this program reads {_VERSION}. Update this "
            "program."
        )
    facts = ShardFacts(tar.stem, items, nbytes, digest.hex(), ends.hex(), captions, edits, plain, references, longest)
    if size != facts.index_bytes:
        raise Blip3oError(f"{shown(index)} has {size:,} bytes and needs {facts.index_bytes:,}: it is damaged. {REMEDY}")
    return facts


def index_of(tar: Path) -> Path:
    return tar.with_name(f"{tar.name.removesuffix('.tar')}.index")


def ends_of(tar: Path) -> tuple[int, str]:
    """(bytes of a shard, digest of its first and last ones)."""
    with open_regular(tar, REMEDY) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        head = stream.read(ENDS)
        stream.seek(max(0, size - ENDS))
        return size, hashlib.sha256(head + stream.read(ENDS)).hexdigest()


def rounded(size: int) -> int:
    """The bytes that a member of `size` bytes takes, without its header."""
    return -(-size // BLOCK) * BLOCK


def member_starts(first: int, sizes: tuple[int, ...]) -> Iterator[int]:
    """Where the bytes of members begin that follow each other from `first` on."""
    for size in sizes:
        yield first + BLOCK
        first += BLOCK + rounded(size)
