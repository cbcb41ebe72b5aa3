"""The tiny world's own task: captions of unseen scenes, and a judge that knows exactly what is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...rewards.interface import Candidates
from ...tiny.evaluation import SIDES, Prompt, Settings, make_prompts
from ...tiny.judge.reward import judged
from ...tiny.scenes.rasterize import size_of
from ...tiny.scenes.spec import spec_of
from ...tiny.scenes.world import CATEGORIES, SPLITS, SQUARE
from ..interface import Item, Scorer
from .options import one_of, read_options, refuse_data, whole, yes_or_no
from .prompts import PromptTask


def read_edition(word: str) -> int:
    """Of the world."""
    return int(one_of(*map(str, SIDES))(word))


COUNT = 80  # ten of each category: a first answer in seconds
_OPTIONS = {
    "count": whole(len(CATEGORIES), 2**20),
    "split": one_of(*SPLITS),
    "any_phrasing": yes_or_no,
    "low_contrast": yes_or_no,
    "edition": read_edition,
}


@dataclass(frozen=True)
class TinyTask(PromptTask):
    """Items of the world, and its judge. Every category counts the same."""

    judge: Scorer = field(kw_only=True)

    @property
    def weights(self) -> Mapping[str, float]:
        return dict.fromkeys((item.category for item in self.items), 1.0)

    def scorers(self) -> Sequence[Scorer]:
        return [self.judge]


@dataclass(frozen=True)
class TinyJudge:
    """The world's judge: measures by name, each the attribute of a verdict."""

    measures: Mapping[str, tuple[float, float]]
    attributes: Mapping[str, str]
    name: str = "judge"
    version: str = "1"
    decisive: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, items: Sequence[Item], candidates: Candidates) -> list[Mapping[str, float | None] | None]:
        verdicts = [judged(image, item.meta) for item, image in zip(items, candidates.images, strict=True)]
        return [
            None
            if verdict is None
            else {name: _number(getattr(verdict, which)) for name, which in self.attributes.items()}
            for verdict in verdicts
        ]


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


SCENE_JUDGE = TinyJudge({"right": (0, 1), "layout": (0, 1)}, {"right": "strict", "layout": "layout"})


def open_task(data: Path | None, options: Mapping[str, str]) -> TinyTask:
    """Options: `count` of prompts, `split`, `any_phrasing` and `low_contrast`, as for `blip3o recipe parts`; and the
    `edition` of the world."""
    refuse_data("tiny", data)
    given = {"count": COUNT, **read_options("tiny", options, _OPTIONS)}
    settings = Settings(**given)
    items = [_item(number, prompt, SIDES[settings.edition]) for number, prompt in enumerate(make_prompts(settings))]
    return TinyTask(items, "tiny", str(settings.edition), judge=SCENE_JUDGE)


def _item(number: int, prompt: Prompt, side: int) -> Item:
    """`side`: pixels of a square image."""
    scene = prompt.scene
    height, width = size_of(scene.canvas, side)
    size = None if scene.canvas == SQUARE else (width, height)
    return Item(f"{number:04d}", prompt.text, prompt.category, meta={"spec": spec_of(scene)}, size=size)
