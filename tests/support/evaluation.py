"""Evaluations in tests: the words of a small one, its files, and a task and scorers that do what they are told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.plan import Row, rows_of
from blip3o_core.evaluation.run_folder import RunFolder
from blip3o_core.images.png import save_png


def words(model: Path, out: Path, *more: str, task: str = "tiny") -> list[str]:
    """A run in seconds; with `--limit=6 --samples=2 --batch=5` it has three batches."""
    return ["evaluate", task, f"--checkpoint={model}", f"--out={out}", "--device=cpu", "--steps=1", *more]


def files(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> content of every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class StandInTask:
    items: Sequence[Item]
    judges: Sequence[Any] = ()
    name: str = "stand-in"
    version: str = "1"
    samples: int = 1
    weights: Mapping[str, float] | None = None
    apart: bool = False
    finished: list[Path] = field(default_factory=list)

    def file(self, item: Item, sample: int) -> PurePosixPath:
        return PurePosixPath(item.id, f"{sample}.png")

    def others(self, item: Item) -> Mapping[PurePosixPath, bytes]:
        return {PurePosixPath(item.id, "metadata.json"): item.prompt.encode()}

    def finish(self, images: Path) -> None:
        self.finished.append(images)

    def official(self, images: Path) -> str:
        return f"score {images}"

    def scorers(self) -> Sequence[Any]:
        return self.judges


@dataclass
class StandInScorer:
    """Answers each image by `answer(item, image)`, and remembers whom it was asked about."""

    answer: Callable[[Item, torch.Tensor], Any]
    name: str = "stand-in"
    version: str = "1"
    measures: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"right": (0.0, 1.0)})
    decisive: Mapping[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, items, candidates):
        self.asked += [item.id for item in items]
        return [self.answer(item, image) for item, image in zip(items, candidates.images, strict=True)]


FACTS: Mapping[str, Any] = {
    "task": {"name": "stand-in", "version": "1"},
    "checkpoint": {"name": "model", "identity": "0" * 32, "loras": []},
    "settings": {"samples": 1},
    "versions": {"torch": "1"},
}


def made(task: StandInTask, out: Path) -> tuple[RunFolder, list[Row]]:
    """A run whose images are there, each of one colour."""
    folder, rows = RunFolder(out), rows_of(task, task.items, task.samples)
    folder.begin(FACTS, task.items)
    for number, row in enumerate(rows):
        path = folder.image(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, torch.full((8, 8, 3), number / 255), {"number": number})
    return folder, rows
