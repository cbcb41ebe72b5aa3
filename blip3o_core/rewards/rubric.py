"""What a judge is asked about an image, and how its answer becomes a number in [0, 1].

A rubric is a JSON file: `instruction`, and `fields`, each with a meaning, a range and a weight. The judge answers with
a JSON object that has a number for each field, and may have a text `reason`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from ..errors import Blip3oError, shown
from ..files import parse_json, read_json
from ..settings import Finite, Flag, Positive, Settings, Strict, Text
from .wire import is_number

BUILT_IN = ("alignment", "edit")
REASON = "reason"
_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(.*?)\r?\n?[ \t]*```", re.DOTALL)
_FOLDER = Path(__file__).parent / "rubrics"


class Question(Strict):
    """One number that the judge gives."""

    meaning: Text  # what the least and the largest number say
    range: tuple[Finite, Finite]
    weight: Positive = 1.0


class Rubric(Settings):
    guide: ClassVar[str] = "docs/reward_servers.md"

    instruction: Text
    fields: Annotated[dict[str, Question], Field(min_length=1, max_length=32)]
    needs_references: Flag = False  # an image without them is not judged

    def conflicts(self) -> Iterator[str]:
        for name, each in self.fields.items():
            if not each.range[0] < each.range[1]:
                yield f"fields.{shown(name)}.range is {list(each.range)}; the first number must be the smaller one."
            if name == REASON or not name.isidentifier():
                yield f"fields has the name {shown(repr(name))}; use letters, digits and '_', and not '{REASON}'."

    @property
    def identity(self) -> str:
        """Another one for other questions, weights or ranges."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def question(self) -> str:
        """The instruction with the form of the answer."""
        lines = [
            f'- "{name}": a number from {each.range[0]:g} to {each.range[1]:g}. {each.meaning}'
            for name, each in self.fields.items()
        ]
        example = ", ".join(f'"{name}": NUMBER' for name in self.fields)
        return (
            f"{self.instruction}\n\nAnswer with one JSON object and nothing else: "
            f'{{"{REASON}": "ONE SENTENCE", {example}}}\n' + "\n".join(lines)
        )

    def value(self, text: str) -> float:
        """The number in [0, 1] that an answer means. Raises Blip3oError where it is not exactly what was asked for."""
        fenced = _FENCE.fullmatch(text.strip())
        answer = parse_json(fenced[1] if fenced else text.strip(), "The answer", "")
        if not isinstance(answer, dict):
            raise Blip3oError("The answer is not a JSON object.")
        wrong = sorted(set(answer) - set(self.fields) - {REASON}) or sorted(set(self.fields) - set(answer))
        if wrong:
            kind = "lacks" if wrong[0] in self.fields else "has the unknown field"
            raise Blip3oError(f"The answer {kind} {shown(repr(wrong[0]))}.")
        shares = []
        for name, each in self.fields.items():
            low, high = each.range
            if not is_number(answer[name]) or not low <= answer[name] <= high:
                raise Blip3oError(
                    f"{name} is {shown(repr(answer[name]))} in the answer; a number from {low:g} to {high:g} is needed."
                )
            shares.append(each.weight * (answer[name] - low) / (high - low))
        return min(1.0, max(0.0, math.fsum(shares) / math.fsum(each.weight for each in self.fields.values())))


def load_rubric(name: str) -> Rubric:
    """A built-in rubric by its name, or the one in a JSON file."""
    path = _FOLDER / f"{name}.json" if name in BUILT_IN else Path(name).expanduser()
    known = ", ".join(BUILT_IN)
    content = read_json(path, f"Give a JSON file, or one of {known}.")
    try:
        return Rubric(**content)
    except Blip3oError as error:
        raise Blip3oError(f"The rubric {shown(name)}: {error}") from error
