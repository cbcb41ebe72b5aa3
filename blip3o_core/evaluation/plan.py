"""Which images a run makes, with which seeds, and which of them are computed together.

An image depends on its task, item and sample alone, and in its last bit on its neighbours in a batch. So batches are
planned over all images of a run in order, and processes share whole batches.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import Blip3oError, did_you_mean, shown
from ..seeds import seed_of
from .interface import Item, Task


@dataclass(frozen=True)
class Row:
    """One image of a run."""

    item: Item
    sample: int
    seed: int  # of its tokens and its noise
    file: PurePosixPath  # below the run's folder


def chosen_items(task: Task, limit: int | None, category: str | None) -> list[Item]:
    """The items of a run: all, the first `limit`, or those of a category.

    Raises Blip3oError for a category that the task lacks.
    """
    items = list(task.items)
    if category is not None:
        known = list(dict.fromkeys(item.category for item in items))
        if category not in known:
            listed = ", ".join(repr(one) for one in known[:20] if one)
            hint = did_you_mean(category, known) or (f"It has {listed}." if listed else "Its items have none.")
            raise Blip3oError(f"{task.name} has no category {shown(repr(category), 80)}. {hint}")
        items = [item for item in items if item.category == category]
    return items[:limit]


def rows_of(task: Task, items: Sequence[Item], samples: int) -> list[Row]:
    """Every image, in order: all samples of an item, then the next item. Raises Blip3oError for two of one file."""
    folder = "samples" if getattr(task, "apart", False) else "images"
    rows = [
        Row(item, sample, seed_of("evaluation", task.name, item.id, sample), folder / task.file(item, sample))
        for item in items
        for sample in range(samples)
    ]
    owners: dict[str, Row] = {}
    for row in rows:
        # On some systems capital letters in names count as small ones.
        if (first := owners.setdefault(str(row.file).casefold(), row)) is not row:
            raise Blip3oError(
                f"Two images would be the file {row.file.name}: item {first.item.id}, sample {first.sample}, and item "
                f"{row.item.id}, sample {row.sample}. Give fewer --samples, or other ids."
            )
    return rows


def batches(rows: Sequence[Row], together: int, fits: Callable[[Item], bool]) -> Iterator[list[Row]]:
    """Rows of one size that are computed together, at most `together`. Edits are made alone: each has its references.

    `fits`: whether the model can read an item's prompt. Those that it cannot fail alone.
    """
    readable: dict[str, bool] = {}
    waiting: dict[tuple[int, int] | None, list[Row]] = {}  # by size
    for row in rows:
        item = row.item
        if item.id not in readable:
            readable[item.id] = not item.references and fits(item)
        if not readable[item.id]:
            yield [row]
            continue
        batch = waiting.setdefault(item.size, [])
        batch.append(row)
        if len(batch) == together:
            yield waiting.pop(item.size)
    yield from waiting.values()


def digest_of(item: Item) -> str:
    """32 hex digits: equal for items that ask for the same."""
    seen = hashlib.sha256()
    about = [item.id, item.prompt, item.category, dict(item.facts), *([item.size] if item.size else [])]
    seen.update(json.dumps(about, sort_keys=True, ensure_ascii=True).encode("ascii"))
    for reference in item.references:
        seen.update(hashlib.sha256(reference.read()).digest())
    if item.mask is not None:
        mask = item.mask()
        seen.update(repr(tuple(mask.shape)).encode() + mask.numpy().tobytes())
    return seen.hexdigest()[:32]
