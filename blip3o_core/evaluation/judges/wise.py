"""WISE's judges: right or wrong (verified), or consistency, realism and aesthetic quality from 0 to 2 (original).

Source: PKU-YuanGroup/WISE, vllm_eval.py with calculate_verified.py, and WISE_legacy/gpt_eval.py with Calculate.py. The
messages stand in the function `build_evaluation_messages` of vllm_eval.py and gpt_eval.py.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ...errors import Blip3oError
from ...images.preprocess import to_images
from ...rewards.chat_options import Tokens
from ...settings import Whole
from ..interface import Item
from .options import JudgeOptions, Tries
from .prompts import Hole, PromptFile, filled
from .query import Attached, Query, Unusable, as_png

if TYPE_CHECKING:
    from torch import Tensor

EXPLANATION = "Explanation"  # in an item's facts: what a right image shows
_FUNCTION, _IMAGE = "build_evaluation_messages", "image_base64"
_REPOSITORY = "of github.com/PKU-YuanGroup/WISE."


class WiseOptions(JudgeOptions):
    published_by: ClassVar[str] = "Qwen3.5-35B-A3B"
    own_models: ClassVar[tuple[str, ...]] = ("qwen3.5-35b-a3b",)

    seed: Whole | None = None
    most_tokens: Tokens | None = 500
    tries: Tries = 3
    fields: dict[str, Any] = Field(default_factory=lambda: {"chat_template_kwargs": {"enable_thinking": False}})


class WiseOriginalOptions(JudgeOptions):
    published_by: ClassVar[str] = "GPT-4o-2024-05-13"
    own_models: ClassVar[tuple[str, ...]] = ("gpt-4o-2024-05-13",)

    seed: Whole | None = None
    most_tokens: Tokens | None = 2000
    tries: Tries = 3


class WiseQuestions:
    name = "wise"
    version = "1"
    measures: Mapping[str, tuple[float, float]] = {"score": (0, 1)}
    _names: tuple[str, ...] = ("vllm_eval.py",)

    def __init__(self, options: WiseOptions | WiseOriginalOptions):
        self.options = options
        self.prompts = PromptFile.find(options.prompts, self._names, f"It is {self._names[-1]} {_REPOSITORY}")
        self._messages = [self._message(each) for each in self.prompts.returned(_FUNCTION)]

    def ask(self, item: Item, image: "Tensor") -> Sequence[Query]:
        values = {"Prompt": item.prompt, "Explanation": item.facts[EXPLANATION]}
        shown_image = as_png(to_images(image[None], f"the image of item {item.id}")[0])
        messages = [(role, [_part(part, values, shown_image) for part in parts]) for role, parts in self._messages]
        return [Query("score", messages, self.read)]

    def numbers(self, item: Item, found: Mapping[str, Any]) -> Mapping[str, float | None]:
        return found["score"]

    def _message(self, message: Any) -> tuple[str, list[str | list[str | Hole] | None]]:
        """(role, parts) of a message of the benchmark's file; None stands for the image."""
        try:
            parts = []
            for part in message["content"]:
                text = part["text"] if part["type"] == "text" else part["image_url"]["url"]
                holes = {each.name for each in text if isinstance(each, Hole)}
                if holes - {"Prompt", "Explanation", _IMAGE} or (_IMAGE in holes) != (part["type"] == "image_url"):
                    raise KeyError
                parts.append(None if _IMAGE in holes else text)
            return message["role"], parts
        except (KeyError, TypeError):
            raise Blip3oError(
                f"{self.prompts.path}: {_FUNCTION} returns messages of an unknown form. {self.prompts.published}"
            ) from None

    @staticmethod
    def read(text: str) -> dict[str, float]:
        """0 or 1, as `extract_scores` of vllm_eval.py finds it. Raises Unusable."""
        found = re.search(r"\*{0,2}Score\*{0,2}\s*[:\uff1a]?\s*([01])\b", text, re.IGNORECASE)
        alone = re.findall(r"(?m)^\s*([01])\s*$", text)
        if found is None and len(alone) != 1:
            raise Unusable("It has no line `Score: 0` or `Score: 1`.")
        return {"score": float(found[1] if found else alone[0])}


class WiseOriginalQuestions(WiseQuestions):
    """WiScore = (0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2, from 0 to 1."""

    name = "wise-original"
    measures: Mapping[str, tuple[float, float]] = {
        "wiscore": (0, 1), "consistency": (0, 2), "realism": (0, 2), "aesthetic_quality": (0, 2),
    }  # fmt: skip
    _names = ("gpt_eval.py", "WISE_legacy/gpt_eval.py")

    @staticmethod
    def read(text: str) -> dict[str, float]:
        """Three scores, as `extract_scores` of gpt_eval.py finds them, and their WiScore. Raises Unusable."""
        names = ("consistency", "realism", "aesthetic_quality")
        pattern = r"\*{0,2}(Consistency|Realism|Aesthetic Quality)\*{0,2}\s*[:\uff1a]?\s*(\d)"
        found = {name.lower().replace(" ", "_"): float(score) for name, score in re.findall(pattern, text, re.I)}
        if not found:
            found = dict(zip(names, map(float, re.findall(r"(?m)^\s*([0-2])\s*$", text)), strict=False))
        if set(found) != set(names) or max(found.values()) > 2:
            raise Unusable("It must have the lines Consistency, Realism and Aesthetic Quality, each with 0, 1 or 2.")
        wiscore = (0.7 * found["consistency"] + 0.2 * found["realism"] + 0.1 * found["aesthetic_quality"]) / 2
        return {"wiscore": wiscore} | found


def _part(part: Any, values: Mapping[str, str], image: Attached) -> str | Attached:
    return image if part is None else filled(part, values)
