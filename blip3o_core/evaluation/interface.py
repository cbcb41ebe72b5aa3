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
    size: tuple[int, int] | None = None  # (width, height) in pixels that the prompt asks for; None: the model's


class Task(Protocol):
    """A benchmark, read from files that the user has, or made by this library.

    - `version`: another one when the same files give other items or another layout.
    - `samples`: the images of each item that the benchmark asks for.
    - `weights`: of the categories in the overall number. None: every item counts the same.
    - A task whose layout has no file for each image, such as a grid of four, has `apart = True`: then `file` is where
      the image lies below the folder `samples` of a run, and `finish` writes what lies below `images`.
    - A task that cannot use any number or size of images has `check(samples, size)`, which raises Blip3oError before
      one is made. `size` is (width, height), or None for the model's own.
    - A task whose prompts were published may have `published`, whose `difference(items)` says how a user's file differs
      from them: then no number carries the benchmark's name.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def items(self) -> Sequence[Item]: ...

    @property
    def samples(self) -> int: ...

    @property
    def weights(self) -> Mapping[str, float] | None: ...

    def file(self, item: Item, sample: int) -> PurePosixPath:
        """Where an image, a PNG, lies below the folder `images` of a run, as the official scorer expects it."""

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
    - A scorer that keeps more than numbers, such as a judge's raw answers, has `keep_in(folder)`. It is called before
      the first question with a folder of the scorer's own in the run, `scores/NAME`, which need not exist yet.
    - A scorer that works on many images at once may have `together`: the most images of a call.
    - `notes` in `decisive`: sentences for the table, such as what keeps its numbers from being comparable.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def measures(self) -> Mapping[str, tuple[float, float]]: ...

    @property
    def decisive(self) -> Mapping[str, Any]: ...

    def __call__(
        self, items: Sequence[Item], candidates: "Candidates"
    ) -> Sequence[Mapping[str, float | None] | None | Exception]: ...
