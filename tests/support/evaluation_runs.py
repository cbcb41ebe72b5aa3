"""Finished runs of an evaluation, made without a model: images of one colour each, and a scorer that a test decides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from blip3o_core.evaluation import results, scoring
from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.plan import rows_of
from blip3o_core.evaluation.run_folder import RunFolder
from blip3o_core.images.png import save_png


@dataclass(frozen=True)
class Task:
    items: Sequence[Item]
    judges: Sequence[Any] = ()
    name: str = "colours"
    version: str = "1"
    samples: int = 1
    weights: Mapping[str, float] | None = None

    def file(self, item: Item, sample: int) -> PurePosixPath:
        return PurePosixPath(item.category or "all", f"{item.id}-{sample}.png")

    def others(self, item: Item) -> dict:
        return {}

    def finish(self, images: Path) -> None:
        pass

    def official(self, images: Path) -> str:
        return ""

    def scorers(self) -> Sequence[Any]:
        return self.judges


@dataclass(frozen=True)
class Known:
    """A scorer that says of (item, sample), in the order of the rows, what it was told."""

    says: Mapping[str, Sequence[float | None | Exception]]  # item -> a number for each sample
    name: str = "known"
    version: str = "1"
    measures: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"right": (0, 1)})
    decisive: Mapping[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, items: Sequence[Item], candidates) -> list:
        answers = []
        for item in items:
            value = self.says[item.id][self.asked.count(item.id)]
            self.asked.append(item.id)
            answers.append(value if value is None or isinstance(value, Exception) else {"right": value})
        return answers


def items(count: int, categories: Sequence[str] = ("red", "blue")) -> list[Item]:
    return [Item(f"{k:03d}", f"colour {k}", categories[k % len(categories)]) for k in range(count)]


def make_run(folder: Path, task: Task, says: Mapping[str, Sequence], samples: int = 1, **settings) -> Path:
    """A finished run of all items; `says`: as for `Known`, or a scorer. `settings`: what run.json says besides."""
    rows, run = rows_of(task, task.items, samples), RunFolder(folder)
    run.begin(
        {
            "task": {"name": task.name, "version": task.version},
            "checkpoint": {"name": "toy", "identity": settings.pop("identity", "0"), "loras": []},
            "settings": {"samples": samples, "steps": 30, **settings},
            "versions": {"images": 1},
        },
        task.items,
    )
    for number, row in enumerate(rows):
        run.image(row).parent.mkdir(parents=True, exist_ok=True)
        about = {"evaluation": {"item": row.item.id, "sample": row.sample}}
        save_png(run.image(row), torch.full((8, 8, 3), number / len(rows)), about)
    scorer = says if hasattr(says, "measures") else Known(says)
    scored = [results.Scored(scorer, scoring.score(run, scorer, rows))]
    results.write(run, results.summarise(task, run, rows, scored))
    return folder
