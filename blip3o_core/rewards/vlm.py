"""The reward `vlm`: a model that sees images judges each one by a rubric, over an OpenAI-compatible address.

Every answer is kept as it came, in a file if one is named. The same question is not asked again, in this run or a later
one. An answer that is not what the rubric asks for is asked for once more; then the image is not judged.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..errors import Blip3oError, shown
from ..images.preprocess import to_images
from ..settings import Folder, Text
from .answers import AnswerFile
from .at_once import each_at_once
from .chat import ABOUT_THE_IMAGE, assistant, image_part, text_part, user
from .chat_options import ChatOptions
from .rubric import load_rubric
from .web import Refused
from .wire import png_of

_TRIES = 2  # for an answer in the form that the rubric asks for


class VlmOptions(ChatOptions):
    guide: ClassVar[str] = "docs/reward_servers.md"

    rubric: Text = "alignment"  # or "edit", or a JSON file
    answers: Folder | None = None  # a JSON lines file


@dataclass(frozen=True)
class _Question:
    prompt: str
    images: tuple[bytes, ...]  # PNG; the last is judged, those before it are its references
    facts: dict  # hashes of the prompt and of all pixels
    key: str  # of all that decides the answer


class VlmReward:
    """Numbers in [0, 1]. The judge sees the prompt, the image and its references; masks and meta it does not see."""

    name = "vlm"
    range = (0.0, 1.0)

    def __init__(self, **options: Any):
        o = self.options = VlmOptions(**options)
        self.rubric = load_rubric(o.rubric)
        self._chat = o.connect()
        self._answers = AnswerFile(None if o.answers is None else Path(o.answers))
        self._decides = [o.model, self.rubric.identity, self._chat.fields]
        self.version = f"{o.model} {_hash(json.dumps(self._decides, sort_keys=True).encode())[:12]}"

    def __call__(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[str],
        references: Sequence[Sequence[torch.Tensor]],
        masks: Sequence[torch.Tensor | None],
        meta: Sequence[Mapping[str, Any]],
    ) -> list[float | None | Exception]:
        keys: list[str | None] = []
        questions: dict[str, _Question] = {}
        for place, (image, prompt, given) in enumerate(zip(images, prompts, references, strict=True), 1):
            question = (
                None if self.rubric.needs_references and not given else self._ask_about(image, prompt, given, place)
            )
            keys.append(None if question is None else question.key)
            if question is not None:
                questions[question.key] = question
        asked = list(questions.values())
        # What ends the whole call ends it after the answers on their way, which are kept.
        found = dict(zip(questions, each_at_once(self._judge, asked, self.options.at_once), strict=True))
        return [None if key is None else found[key] for key in keys]

    def _ask_about(self, image: torch.Tensor, prompt: str, given: Sequence[torch.Tensor], place: int) -> _Question:
        seen = [to_images(each[None], f"a reference of image {place}")[0] for each in given]
        seen.append(to_images(image[None], f"image {place}")[0])
        # Of the pixels, because another release of Pillow may pack them into another file.
        hashes = [_hash(f"{each.size} ".encode() + each.tobytes()) for each in seen]
        facts: dict[str, Any] = {
            "prompt_hash": _hash(prompt.encode("utf-8", "surrogatepass")),
            "image_hash": hashes[-1],
        }
        facts |= {"reference_hashes": hashes[:-1]} if given else {}
        key = _hash(json.dumps([*self._decides, facts], sort_keys=True).encode())
        return _Question(prompt, tuple(map(png_of, seen)), facts, key)

    def _judge(self, question: _Question) -> float | Blip3oError:
        messages = [user(*self._parts(question))]
        fault = ""
        for tried in range(_TRIES):
            try:
                text = self._answers.text(question.key, tried, lambda: self._asked(question, messages))
            except Refused as refused:
                if refused.status not in ABOUT_THE_IMAGE:
                    raise
                return refused
            try:
                return self.rubric.value(text)
            except Blip3oError as error:
                fault = str(error)
            again = f"That cannot be used: {fault} Answer with the JSON object alone."
            messages.extend([assistant(text), user(text_part(again))])
        return Blip3oError(
            f"{self._chat.url} gave no usable answer. {fault.strip()} It was: {shown(text, 300)} "
            "Check the model and the rubric."
        )

    def _parts(self, question: _Question) -> list[dict]:
        parts = [text_part(self.rubric.question())]
        for number, each in enumerate(question.images[:-1], 1):
            parts += [text_part(f"Reference image {number}:"), image_part(each)]
        parts += [text_part("The image to judge:"), image_part(question.images[-1])]
        return [*parts, text_part(f"The text, as a JSON string: {json.dumps(question.prompt, ensure_ascii=False)}")]

    def _asked(self, question: _Question, messages: list[dict]) -> tuple[str, dict]:
        answer = self._chat.ask(messages)
        facts = {**question.facts, **self._chat.facts(answer), "rubric": self.rubric.identity}
        return self._chat.web.cleaned(answer.text), facts


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
