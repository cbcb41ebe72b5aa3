"""ImgEdit's judge: three scores from 1 to 5 for an edit. Source: PKU-YuanGroup/ImgEdit, Benchmark/Basic.

Its prompts are a JSON object, one for each kind of edit. The judge gets the text, the file before and the file after
the edit. A line of its answer is a score where it ends with ": " and a number, as in step1_get_avgscore.py.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import Blip3oError, shown
from ...images.preprocess import to_images
from ...rewards.chat_options import Tokens
from ...settings import NotNegative, Whole
from ..interface import Item
from .options import JudgeOptions
from .prompts import PromptFile
from .query import Query, Unusable, as_it_is, as_png

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = ("prompts.json", "judge_prompt.json", "Basic/prompts.json", "Benchmark/Basic/prompts.json")
_PUBLISHED = "It is Benchmark/Basic/prompts.json of github.com/PKU-YuanGroup/ImgEdit."
_SCORES = ("first", "second", "third")  # the prompts call them so; their names differ by the kind of edit


class ImgEditOptions(JudgeOptions):
    published_by: ClassVar[str] = "GPT-4o"
    own_models: ClassVar[tuple[str, ...]] = ("gpt-4o",)

    temperature: NotNegative | None = None
    seed: Whole | None = None
    most_tokens: Tokens | None = None


class ImgEditQuestions:
    name = "imgedit"
    version = "1"
    measures: Mapping[str, tuple[float, float]] = {"score": (1, 5)} | dict.fromkeys(_SCORES, (1.0, 5.0))

    def __init__(self, options: ImgEditOptions):
        self.options = options
        self.prompts = PromptFile.find(options.prompts, _NAMES, _PUBLISHED)
        self._texts = self.prompts.json_texts()

    def ask(self, item: Item, image: "Tensor") -> Sequence[Query]:
        if item.category not in self._texts:
            raise Blip3oError(
                f"{shown(self.prompts.path)} has no prompt for edits of the kind {shown(repr(item.category), 80)}. "
                f"{_PUBLISHED}"
            )
        if len(item.references) != 1:
            raise Blip3oError(f"The item has {len(item.references)} references; ImgEdit's judge compares with one.")
        text = self._texts[item.category].replace("<edit_prompt>", item.prompt)
        after = as_png(to_images(image[None], f"the image of item {item.id}")[0])
        return [Query("scores", [("user", [text, as_it_is(item.references[0].read()), after])], scores_of)]

    def numbers(self, item: Item, found: Mapping[str, Any]) -> Mapping[str, float | None]:
        return found["scores"]


def scores_of(text: str) -> dict[str, float]:
    """The three scores and their mean, rounded to two digits as the benchmark does. Raises Unusable."""
    parts = [line.strip().split(": ") for line in text.splitlines()]
    found = [int(part[1]) for part in parts if len(part) == 2 and part[1].isascii() and part[1].isdigit()]
    if len(found) != len(_SCORES) or not all(1 <= score <= 5 for score in found):
        raise Unusable(
            f"It must have {len(_SCORES)} lines that end with a colon, a space and a number from 1 to 5; "
            f"it has {shown(found, 80) if found else 'none'}."
        )
    return {"score": round(sum(found) / len(found), 2)} | dict(zip(_SCORES, map(float, found), strict=True))
