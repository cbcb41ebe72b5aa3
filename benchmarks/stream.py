"""Training from shard folders: memory that items cost, and steps prepared from shards and from memory in turn.

The folder of 27 million items has one shard under many names: its manifest, its indices and its order are of that size,
and every item that is asked for is read, but the disk need not hold them all. `grown_mb` is what the process's resident
memory has grown by after the folder was opened, looked at and read from.
"""

import ctypes
import dataclasses
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blip3o_core.shards.manifest import write_manifest
from blip3o_core.shards.read import ShardFolder
from blip3o_core.shards.write import Record, write_shard
from blip3o_core.training.data.batches import Batches
from blip3o_core.training.data.image_source import HeldImage
from blip3o_core.training.data.item_table import Item, ItemTable
from blip3o_core.training.data.items import Items, find_items
from blip3o_core.training.data.notes import Notes
from blip3o_core.training.data.order import order_of
from blip3o_core.training.data.shard import read_shard
from blip3o_core.training.data.survey import survey

REAL, SIMULATED, SHARD = 200_000, 27_000_000, 5000
_IMAGE = b"\xff\xd8\xff" + bytes(997)  # nothing decodes it


def memory(place: Path, real: int, simulated: int, shard: int) -> list[dict]:
    """A row for the items of plain shards, of a shard folder, and of one of 27 million items."""
    folder = place / "real"
    shards = [write_shard(folder / f"{k:05d}.tar", _records(k, shard)) for k in range(real // shard)]
    write_manifest(folder, shards)
    large, first = place / "simulated", folder / f"{shards[0].name}.tar"
    large.mkdir()
    copies = [dataclasses.replace(shards[0], name=f"{k:05d}") for k in range(simulated // shard)]
    for copy in copies:
        for ending in ("tar", "index"):
            os.link(first.with_suffix(f".{ending}"), large / f"{copy.name}.{ending}")
    write_manifest(large, copies)
    return [
        _grown("plain shards", lambda: _listed(sorted(folder.glob("*.tar"))), lambda items: range(0)),
        _grown("shard folder", lambda: find_items([str(folder)]), lambda items: range(len(items))),
        _grown("shard folder", lambda: find_items([str(large)]), lambda items: _positions(len(items), real)),
    ]


def _records(shard: int, count: int) -> Iterator[Record]:
    return (Record(f"{shard:05d}-{k:05d}", _IMAGE, (), (f"{shard:020d}{k:040d}",)) for k in range(count))


def _listed(shards: Sequence[Path]) -> Items:
    table = ItemTable()
    for shard in shards:
        read_shard(shard, table, Notes())
    return Items([table])


def _positions(count: int, reads: int) -> list[int]:
    """Rows of the beginning of a run, of its middle, and of its second epoch."""
    return [start + k for start in (0, count // 2, count) for k in range(reads // 3)]


def _grown(what: str, find: Callable[[], Items], positions: Callable[[Items], Sequence[int]]) -> dict:
    before, began = _resident(), time.perf_counter()
    items = find()
    if items.streamed:
        survey(items)
    opened, order = time.perf_counter() - began, order_of(items.parts, None, 0)
    rows, began = positions(items), time.perf_counter()
    for row in rows:
        assert items[order.index(row)].captions
    seconds, after = time.perf_counter() - began, _resident()
    return {
        "what": what, "count": len(items), "grown_mb": (after - before) / 1e6, "open_s": opened, "read": len(rows),
        "ours_s": seconds / max(1, len(rows)),
    }  # fmt: skip


def _resident() -> int:
    """Bytes of this process, without what was freed."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        return 0  # only Linux says it


class _Held(Sequence[Item]):
    """The items of a shard folder in memory, in the folder's own order."""

    def __init__(self, folder: Path):
        shards = ShardFolder(folder)
        self.units: list[int] | None = shards.counts
        self._items = []
        for number in range(len(shards)):
            stored = shards.read(*shards.find(number))
            self._items.append(Item(stored.record.texts, HeldImage(stored.names[0], stored.record.image)))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number):
        return self._items[number]


def throughput(place: Path, files: Batches, steps: int, runs: int) -> dict:
    """Seconds of a step prepared from shards over one prepared from memory. Nothing is in the cache of latents."""
    items = [item for item in files.items if isinstance(item, Item)]
    records = [Record(f"{k:05d}", item.image.read(), (), item.captions) for k, item in enumerate(items)]
    write_manifest(place, [write_shard(place / f"{k}.tar", records[k::4]) for k in range(4)])
    pair = [
        Batches(files.config, items, files.prompts, files.images)
        for items in (find_items([str(place)]), Items([_Held(place)]))  # type: ignore[list-item]
    ]
    times: list[list[float]] = [[], []]
    for turn in range(2 * runs):
        for side in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            for step in range(steps):
                pair[side].prepare(step)
            times[side].append((time.perf_counter() - began) / steps)
    ours, theirs = map(statistics.median, times)  # of turns: a machine that does other work, too, has lucky minima
    return {"what": "shards or memory", "count": steps, "ours_s": ours, "theirs_s": theirs, "ratio": theirs / ours}
