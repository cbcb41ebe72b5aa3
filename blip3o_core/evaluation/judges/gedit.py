"""GEdit-Bench's judge, VIEScore: how well an instruction was followed (SC), how good the image is (PQ), 0 to 10 each.

Source: stepfun-ai/Step1X-Edit, GEdit-Bench: test_gedit_score.py and viescore. The prompts are text constants of
vie_prompts.py. The edited image is resized to the source. With `backbone: gpt4o` the text comes first and images are
JPEG files; with `backbone: qwen25vl` the images come first and are PNG files, as the benchmark's two classes do it.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...errors import shown
from ...images.preprocess import to_images
from ...images.reader import read_image
from ...rewards.chat_options import Tokens
from ...rewards.wire import is_number
from ...settings import NotNegative, Whole
from ..interface import Item
from .options import JudgeOptions, Tries
from .prompts import PromptFile
from .query import Attached, Query, Unusable, as_jpeg, as_png

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "source"  # in an item's meta: a function that gives the bytes of the source image, as the benchmark has it
INTERSECTION = "Intersection_exist"  # in its facts: whether it belongs to the smaller set that is reported as well
_NAMES = ("vie_prompts.py", "viescore/vie_prompts.py", "GEdit-Bench/viescore/vie_prompts.py")
_PUBLISHED = "It is GEdit-Bench/viescore/vie_prompts.py of github.com/stepfun-ai/Step1X-Edit."
_CONTEXT, _EDIT = "_context_no_delimit", "_prompts_0shot_two_image_edit_rule"
_SC, _PQ = "_prompts_0shot_tie_rule_SC", "_prompts_0shot_rule_PQ"
_MARK = "||V^=^V||"


class GEditOptions(JudgeOptions):
    published_by: ClassVar[str] = "GPT-4.1"
    own_models: ClassVar[tuple[str, ...]] = ("gpt-4.1",)

    backbone: Literal["gpt4o", "qwen25vl"] = "gpt4o"
    temperature: NotNegative | None = None
    seed: Whole | None = None
    most_tokens: Tokens | None = 1400
    tries: Tries = 2


class GEditQwenOptions(GEditOptions):
    published_by: ClassVar[str] = "Qwen2.5-VL-72B"
    own_models: ClassVar[tuple[str, ...]] = ("qwen2.5-vl-72b-instruct-awq",)

    temperature: NotNegative | None = 0.0
    most_tokens: Tokens | None = 512


class GEditQuestions:
    name = "gedit"
    version = "1"
    measures: Mapping[str, tuple[float, float]] = dict.fromkeys(
        ("overall", "SC", "PQ", "overall_intersection"), (0, 10)
    )

    def __init__(self, options: GEditOptions):
        self.options = options
        self.prompts = PromptFile.find(options.prompts, _NAMES, _PUBLISHED)
        texts = self.prompts.constants((_CONTEXT, _EDIT, _SC, _PQ))
        self._sc, self._pq = "\n".join([texts[_CONTEXT], texts[_EDIT], texts[_SC]]), f"{texts[_CONTEXT]}\n{texts[_PQ]}"

    def ask(self, item: Item, image: "Tensor") -> Sequence[Query]:
        # As test_gedit_score.py opens it: colour profiles and transparency are not looked at.
        before = read_image(item.meta[SOURCE](), f"the source of item {item.id}", colours=False).pixels.convert("RGB")
        after = to_images(image[None], f"the image of item {item.id}")[0].resize(before.size)
        pack = as_jpeg if self.options.backbone == "gpt4o" else as_png
        both = [pack(before), pack(after)]
        sc = self._parts(self._sc.replace("<instruction>", item.prompt), both)
        pq = self._parts(self._pq, both[1:])
        return [Query("SC", [("user", sc)], smallest_score), Query("PQ", [("user", pq)], smallest_score)]

    def numbers(self, item: Item, found: Mapping[str, float]) -> Mapping[str, float | None]:
        overall = math.sqrt(found["SC"] * found["PQ"])
        return {"overall": overall, **found, "overall_intersection": overall if item.facts[INTERSECTION] else None}

    def _parts(self, text: str, images: Sequence[Attached]) -> list[str | Attached]:
        return [text, *images] if self.options.backbone == "gpt4o" else [*images, text]


def smallest_score(text: str) -> float:
    """The least number of the list `score`, read as `mllm_output_to_dict` does. Raises Unusable.

    Where that function guesses a number at random, this one has none.
    """
    if text.count(_MARK) == 2:
        body = text.split(_MARK)[1]
    elif "{" in text and "}" in text:
        body = text[text.index("{") : text.rindex("}") + 1]
    else:
        found = re.fullmatch(r"\d+", text) or re.fullmatch(r"\[\d+, ?\d+\]", text[text.find("[") : text.rfind("]") + 1])
        if found is None:
            raise Unusable("It has neither a JSON object nor a list of scores.")
        body = f'{{"score": {found[0]}}}'
    try:
        answer: Any = json.loads(body.replace("\n", ""))
        scores = answer["score"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Unusable("It is not a JSON object with `score`.") from None
    scores = scores if isinstance(scores, list) else [scores]
    if not scores or not all(is_number(score) and 0 <= score <= 10 for score in scores):
        raise Unusable(f"score is {shown(repr(scores), 80)}; numbers from 0 to 10 are needed.")
    return float(min(scores))
