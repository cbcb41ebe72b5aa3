"""A benchmark's judge as a scorer: every answer is kept as it came, and the same question is not asked again.

What goes wrong with one image is that image's failure. A server that fails for image after image is not asked about
the others of a call, which fail for the same reason: the same command asks again.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import Blip3oError, shown
from ...rewards.answers import AnswerFile
from ...rewards.at_once import each_at_once
from ...rewards.chat import ABOUT_THE_IMAGE
from ...rewards.web import BadAnswer, NoAnswer, Refused
from ..interface import Item
from .options import JudgeOptions
from .prompts import PromptFile
from .query import Query, Unusable

if TYPE_CHECKING:
    from torch import Tensor

    from ...rewards.interface import Candidates

ANSWERS = "answers.jsonl"
_IN_A_ROW = 5  # images for which a server fails before it is left alone; more where more are asked about at once
_MOST = 64  # images in a call, unless more are asked about at once: 12 MB each, and its source as much, at 1024 x 1024
_THOUGHTS = re.compile(r"^\s*(<think>)?.*?</think>", re.DOTALL)


class Questions(Protocol):
    """How a benchmark asks its judge, and what it makes of the answers.

    `version`: another one when the same answers may give other numbers.
    """

    name: str
    version: str
    measures: Mapping[str, tuple[float, float]]
    prompts: PromptFile

    @property
    def options(self) -> JudgeOptions: ...

    def ask(self, item: Item, image: "Tensor") -> Sequence[Query]:
        """The questions about an image, (H, W, 3) in [0, 1]. Raises Blip3oError for an item that has none."""

    def numbers(self, item: Item, found: Mapping[str, Any]) -> Mapping[str, float | None]:
        """The measures, from what the answer to each question means, by the question's name."""


class Judge:
    """Asks about several images at once. Its name has the model's in it: two judges of a run stay apart."""

    def __init__(self, questions: Questions):
        self._questions, o = questions, questions.options
        self.name = f"{questions.name}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', o.model)[:80]}"
        self.measures = questions.measures
        # Few of them wait for the last ones of a call, and the pixels of a call fit into memory.
        self.together = max(o.at_once, min(4 * o.at_once, _MOST))
        self._chat = o.connect()
        self.decisive: dict[str, Any] = {
            "judge": o.model,
            "notes": list(o.notes()),
            "prompts": {"file": questions.prompts.path.name, "sha256": questions.prompts.digest},
            "sent": dict(self._chat.fields),
            "tries": o.tries,
            **{name: getattr(o, name) for name in sorted(set(type(o).model_fields) - set(JudgeOptions.model_fields))},
        }
        decides = json.dumps([questions.name, questions.version, self.decisive], sort_keys=True).encode()
        self.version = f"{o.model} {hashlib.sha256(decides).hexdigest()[:12]}"
        self._answers = AnswerFile(None)
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}  # by the key of a question
        self._failed = 0  # images in a row for which the server failed
        self._reason: Blip3oError | None = None  # why it is left alone in this call

    def keep_in(self, folder: Path) -> None:
        """Keep the answers in this folder, and ask only what has none there."""
        self._answers = AnswerFile(folder / ANSWERS)

    def __call__(
        self, items: Sequence[Item], candidates: "Candidates"
    ) -> list[Mapping[str, float | None] | None | Exception]:
        self._reason, self._failed = None, min(self._failed, self._patience - 1)
        return each_at_once(self._judge, list(zip(items, candidates.images, strict=True)), self._at_once)

    @property
    def _at_once(self) -> int:
        return self._questions.options.at_once

    @property
    def _patience(self) -> int:
        return max(_IN_A_ROW, self._at_once + 1)

    def _judge(self, job: tuple[Item, "Tensor"]) -> Mapping[str, float | None] | Exception:
        try:
            queries = self._questions.ask(*job)
        except Blip3oError as error:
            return error
        try:
            return self._questions.numbers(job[0], {query.name: self._answer(query) for query in queries})
        except Unusable as error:
            return error
        except Refused as error:
            if error.status not in ABOUT_THE_IMAGE:
                self._count(error, self._patience)
            return error
        except (NoAnswer, BadAnswer) as error:
            self._count(error, 1)
            return error

    def _count(self, error: Blip3oError, images: int) -> None:
        """The server failed: for one image, or as it will for all."""
        with self._lock:
            self._failed += images
            if self._failed >= self._patience and self._reason is None:
                self._reason = error

    def _answer(self, query: Query) -> Any:
        """What the judge's answer means. Raises Unusable where none can be used, and what `Chat` raises."""
        key = query.key([self._chat.model, self._chat.fields])
        with self._lock:
            lock = self._asking.setdefault(key, threading.Lock())
        fault, text = "", ""
        with lock:
            for number in range(self._questions.options.tries):
                text = self._answers.text(key, number, lambda: self._asked(query))
                try:
                    return query.read(_THOUGHTS.sub("", text, count=1).strip())
                except Unusable as error:
                    fault = str(error)
        raise Unusable(
            f"{self._chat.model} gave no usable answer to {query.name}. {fault} It was: {shown(text, 300)} "
            f"The answers are kept in {ANSWERS}."
        )

    def _asked(self, query: Query) -> tuple[str, dict]:
        if self._reason is not None:
            raise NoAnswer(f"It was not asked, because the server failed before: {self._reason}")
        answer = self._chat.ask(query.to_chat())
        with self._lock:
            self._failed = 0
        return self._chat.web.cleaned(answer.text), {**self._chat.facts(answer), **query.facts()}
