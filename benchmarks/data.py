"""Training data: memory of many items in columns and as an object each, steps whose data is read ahead or not, shards.

The device is a wait of the time that preparing a step takes: it needs no CPU, as an accelerator does not. Both sides
prepare the same steps; `ratio` is the time, or memory, of the simple way over ours.
"""

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.training.config import Source, TrainingConfig
from blip3o_core.training.data.ahead import Ahead
from blip3o_core.training.data.batches import Batches
from blip3o_core.training.data.item_table import Item, ItemTable
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.latent_cache import ImageEncoder
from blip3o_core.training.data.survey import survey

from . import stream

ITEMS, STEPS, BATCH, SIDE = 200_000, 20, 8, 1024


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    with tempfile.TemporaryDirectory() as place:
        steps, turns, small = 3 if quick else STEPS, max(1, runs // 2), 50 if quick else 1
        return [
            _items(ITEMS // small),
            *_steps(Path(place), steps, turns),
            *stream.memory(Path(place), stream.REAL // small, stream.SIMULATED // small, stream.SHARD // small),
        ]


def _items(count: int) -> dict:
    """Bytes of each item: a shard's member and a caption of 60 characters."""
    shard = Path("/data/shards/000001.tar")

    def columns() -> ItemTable:
        table = ItemTable()
        for k in range(count):
            table.append((f"{k:060d}",), [(shard, f"{k:09d}.jpg", 512 * k, 100_000)])
        return table

    def objects() -> list[Item]:
        return list(columns())

    (ours, seconds), (theirs, _) = _memory(columns), _memory(objects)
    return {
        "what": "items", "count": count, "ours_bytes": ours / count, "theirs_bytes": theirs / count,
        "ours_s": seconds, "ratio": theirs / ours,
    }  # fmt: skip


def _memory(make: Callable[[], object]) -> tuple[int, float]:
    """(bytes that are still allocated, seconds) of what `make` gives."""
    tracemalloc.start()
    began = time.perf_counter()
    kept = make()
    seconds, size = time.perf_counter() - began, tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return size, seconds


def _steps(place: Path, steps: int, runs: int) -> list[dict]:
    batches = _photographs(place, 4 * BATCH)
    alone = min(_timed(batches.prepare, steps) for _ in range(runs)) / steps

    def plain() -> None:
        for step in range(steps):
            batches.prepare(step)
            time.sleep(alone)

    def ahead() -> None:
        reader = Ahead(batches.prepare, steps)
        for step in range(steps):
            reader.get(step)
            time.sleep(alone)
        reader.close()

    pairs = [(_seconds(ahead), _seconds(plain)) for _ in range(runs)]
    ours, theirs = (min(times) / steps for times in zip(*pairs, strict=True))
    images = batches.items.num_images
    return [
        stream.throughput(place / "shards", batches, steps, runs),
        {
            "what": "steps",
            "count": steps,
            "prepare_s": alone,
            "ours_s": ours,
            "theirs_s": theirs,
            "ratio": theirs / ours,
        },
        {
            "what": "survey",
            "count": images,
            "ours_s": min(_seconds(lambda: survey(batches.items)) for _ in range(3)) / images,
        },
    ]


def _photographs(place: Path, count: int) -> Batches:
    """JPEG files of SIDE pixels with noise in them, not in any cache."""
    noise = np.random.default_rng(0)
    for k in range(count):
        coarse = noise.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / f"{k}.jpg", quality=92)
    lines = [json.dumps({"image": f"{k}.jpg", "caption": "a red square"}) for k in range(count)]
    (place / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = TrainingConfig(
        checkpoint=str(BUNDLED),
        out=str(place / "run"),
        data=(Source(path=str(place)),),
        steps=1,
        train={"connector": 1.0},
        batch=BATCH,
    )
    checkpoint, items = open_checkpoint(BUNDLED), find_items(config.paths)
    encoder = ImageEncoder(checkpoint, place / "cache", checkpoint.trained_side, config.fit, torch.device("cpu"))
    return Batches(config, items, checkpoint.prompt_encoder, encoder)


def _timed(prepare: Callable[[int], object], steps: int) -> float:
    return _seconds(lambda: [prepare(step) for step in range(steps)])


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
