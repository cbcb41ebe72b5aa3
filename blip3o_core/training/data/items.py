"""Training items by position: folders with `items.jsonl`, shard folders, webdataset-style .tar shards, packed files.

- An item without a caption is a reconstruction: the image is learnt from its own image tokens, which are not labels.
- An item with references is an edit: the target image follows from them and an instruction.
- Several captions or instructions of one item mean the same. One of them is chosen each time the item is used.
- The members of a plain shard are listed once and read in place. A shard folder has such lists: it is only opened.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import Blip3oError, first_line, shown
from ...shards.manifest import has_manifest
from ...shards.naming import IMAGE_SUFFIXES
from .image_source import ImageSource
from .item_table import Item, ItemTable
from .listed import LIST, read_list
from .notes import Notes, counted
from .packed import Pack, PackedItem, open_pack
from .shard import read_shard
from .streamed import StreamedItems

_SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".safetensors")


Part = ItemTable | Pack | StreamedItems


class Items(Sequence[Item | PackedItem]):
    """The items of all sources, in the order of the sources and of their lines or members."""

    def __init__(self, parts: Sequence[Part], notes: Sequence[str] = ()):
        self.parts, self.notes = list(parts), list(notes)
        self._ends = list(itertools.accumulate(map(len, self.parts)))
        self.num_images = 0  # of the item tables, references too
        for part in self.parts:
            if isinstance(part, ItemTable):
                part.first_image = self.num_images
                self.num_images += part.num_images

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = bisect_right(self._ends, number)
        return self.parts[part][number - (self._ends[part - 1] if part else 0)]

    @property
    def packs(self) -> list[Pack]:
        return [part for part in self.parts if isinstance(part, Pack)]

    @property
    def streamed(self) -> list[StreamedItems]:
        return [part for part in self.parts if isinstance(part, StreamedItems)]

    def images(self) -> Iterator[ImageSource]:
        """The images of the item tables, references too."""
        return itertools.chain.from_iterable(part.images() for part in self.parts if isinstance(part, ItemTable))

    @property
    def edits(self) -> int:
        return sum(part.edits for part in self.parts)

    @property
    def first_with_several(self) -> Item | PackedItem | None:
        """The first item with more than one reference."""
        found = (part[part.first_with_several] for part in self.parts if part.first_with_several is not None)
        return next(found, None)

    def summary(self) -> list[str]:
        """What will be trained on, in numbers, and what of the data will not be used."""
        texts, edits = sum(part.filled for part in self.parts), self.edits
        return [
            f"{counted(len(self), 'image')}: {texts - edits:,} with captions, "
            f"{counted(len(self) - texts, 'reconstruction')}, {counted(edits, 'edit')}",
            *self.notes,
        ]


def find_items(sources: Sequence[str]) -> Items:
    """All items of the sources. Raises Blip3oError for a source without any."""
    parts, lines = [], []
    for source in map(Path, sources):
        notes = Notes()
        part = _read(source, notes)
        if not len(part):
            raise Blip3oError(
                f"{source} contains no images to train on{_instead(source, notes)}. Give a folder with items.jsonl or "
                f".tar shards, or a shard with images ({', '.join(IMAGE_SUFFIXES)})."
            )
        parts.append(part)
        lines += notes.lines(str(source))
    return Items(parts, lines)


def _read(source: Path, notes: Notes) -> Part:
    try:
        return _read_source(source, notes)
    except (OSError, ValueError) as error:
        if isinstance(error, Blip3oError):
            raise
        raise Blip3oError(
            f"data names {shown(source)}, which cannot be read: {first_line(error)}. Check the path."
        ) from error


def _read_source(source: Path, notes: Notes) -> Part:
    table = ItemTable()
    if source.is_file() and source.suffix == ".tar":
        read_shard(source, table, notes)
    elif source.is_file() and source.suffix == ".safetensors":
        return open_pack(source)
    elif source.is_dir() and has_manifest(source):
        return StreamedItems(source, notes)
    elif source.is_dir():
        files = sorted(path for path in source.iterdir() if not path.name.startswith("."))
        listed = (source / LIST).exists()
        if listed:
            notes.empty += read_list(source, table)
        for path in files:
            if path.name.endswith(".tar") and not listed and path.is_file():
                read_shard(path, table, notes)
            elif ending := next((one for one in _SHARDS if path.name.endswith(one)), None):
                notes.unused[ending + (f" beside {LIST}" if listed else "")] += 1
            elif not listed and path.suffix.lower() in IMAGE_SUFFIXES:
                notes.unused[f"{path.suffix} without {LIST}"] += 1
    else:
        raise Blip3oError(
            f"data names {source}, which is not a folder, a .tar shard or a packed .safetensors file. Check the path."
        )
    return table


def _instead(source: Path, notes: Notes) -> str:
    """What a source without items has in their place."""
    return "".join(f"; {line.removeprefix(f'{source}: ')}" for line in notes.lines(str(source)))
