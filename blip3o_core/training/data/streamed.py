"""Training items from a shard folder: nothing is known of an item until it is read, so millions need no memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...shards.layout import ShardFacts
from ...shards.manifest import MANIFEST
from ...shards.read import ShardFolder
from .captions import texts_of
from .image_source import HeldImage
from .item_table import Item
from .notes import Notes


class StreamedItems(Sequence[Item]):
    """The items of a shard folder, in the order of its shards."""

    def __init__(self, folder: Path, notes: Notes):
        self.shards = ShardFolder(folder)
        self.facts: Sequence[ShardFacts] = self.shards.manifest.shards
        self.units: list[int] | None = self.shards.counts
        self.edits = sum(shard.edits for shard in self.facts)
        self.filled = self.edits + sum(shard.captions for shard in self.facts)
        self._firsts = [0]
        for count in self.shards.counts:
            self._firsts.append(self._firsts[-1] + count)
        named = {f"{shard.name}.tar" for shard in self.facts}
        if others := sum(path.name not in named for path in folder.glob("*.tar")):
            notes.unused[f".tar that {MANIFEST} does not name"] += others

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number):
        stored = self.shards.read(*self.shards.find(number))
        record = stored.record
        kind = "instruction" if record.references else "caption"
        captions = texts_of({kind: list(record.texts)}, len(record.references), stored.names[0])
        images = map(HeldImage, stored.names, (record.image, *record.references))
        return Item(captions, next(images), tuple(images))

    def num_references(self, number: int) -> int:
        return self.shards.num_references(*self.shards.find(number))

    @property
    def first_with_several(self) -> int | None:
        """The first item with more than one reference."""
        for shard, facts in enumerate(self.facts):
            if facts.most_references > 1:
                counts = (self.shards.num_references(shard, item) for item in range(facts.items))
                return self._firsts[shard] + next(item for item, count in enumerate(counts) if count > 1)
        return None

    def identity(self) -> str:
        return self.shards.manifest.identity

    def texts_in(self, shard: int) -> Iterator[tuple[int, bytes]]:
        """(item, UTF-8 bytes) of every text of a shard."""
        for item, texts in enumerate(self.shards.texts(shard), self._firsts[shard]):
            for text in texts:
                yield item, text.encode("utf-8")
