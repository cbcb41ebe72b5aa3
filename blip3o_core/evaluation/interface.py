"""What a benchmark is to this library: items with prompts, a layout of files, and scorers.

Making images, resuming, sharing work and summing up are the same for all and know no benchmark.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ..rewards.interface import Candidates


@dataclass(frozen=True)
class Reference:
    """An image that an edit starts from: a file of the benchmark, or one made on the spot."""

    name: str  # for messages
    read: Callable[[], bytes] = field(repr=False)  # of an image file; the same bytes every time


@dataclass(frozen=True)
class Item:
    """One question of a benchmark. `facts`: what its files say of it besides, as JSON; it decides what is asked."""

    id: str  # unique in the task: 1 to 100 letters, digits, "_", "-" or "."
    prompt: str  # for an edit its instruction
    category: str = ""  # a row of the table
    references: tuple[Reference, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)  # for scorers, of any type
    mask: "Callable[[], Tensor] | None" = None  # (H, W) float32, 1 where an edit may change the image


class Task(Protocol):
    """A benchmark, read from files that the user has, or made by this library.

    - `version`: another one when the same files give other items or another layout.
    - `samples`: the images of each item that the benchmark asks for.
    - `weights`: of the categories in the overall number. None: every item counts the same.
    """

    name: str
    version: str
    items: Sequence[Item]
    samples: int
    weights: Mapping[str, float] | None

    def file(self, item: Item, sample: int) -> PurePosixPath:
        """Where an image lies below the folder `images` of a run, as the official scorer expects it: a PNG."""

    def others(self, item: Item) -> Mapping[PurePosixPath, bytes]:
        """Further files of the layout that belong to an item, below `images`, such as GenEval's metadata.jsonl."""

    def finish(self, images: Path) -> None:
        """Write what the layout needs once all images are there, such as a grid of the samples. It may be repeated."""

    def official(self, images: Path) -> str:
        """The commands of the benchmark's own scorer for this folder. "": the scorers here are its own."""

    def scorers(self) -> "Sequence[Scorer]":
        """Those that are the real thing and run here. Never a substitute under the benchmark's name."""


class Scorer(Protocol):
    """Judges images of a task. One that fails for an image gives an exception in its place; None: nothing to judge.

    - `version`: another one when the same image may get another number.
    - `measures`: each number's name and its least and largest value, the one that counts most first.
    - `decisive`: what its numbers mean for an image, such as a judge's model and prompts, as JSON, for results.json.
    """

    name: str
    version: str
    measures: Mapping[str, tuple[float, float]]
    decisive: Mapping[str, Any]

    def __call__(
        self, items: Sequence[Item], candidates: "Candidates"
    ) -> Sequence[Mapping[str, float | None] | None | Exception]: ...
