"""Texts by a model behind an OpenAI-compatible address."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from ...rewards.at_once import each_at_once
from ...rewards.chat import image_part, text_part, user
from ...rewards.chat_options import ChatOptions
from ...rewards.wire import png_of
from ...settings import Strict, Text
from .writers import PROMPTS, Ask, Written


class Prompts(Strict):
    """What the model is asked for each kind of text."""

    long: Text = PROMPTS["long"]
    short: Text = PROMPTS["short"]
    instruction: Text = PROMPTS["instruction"]


class WriterOptions(ChatOptions):
    guide: ClassVar[str] = "docs/curation_models.md"

    prompts: Prompts = Prompts()


class ChatWriter:
    """Asks several questions at a time. A fault of one is that one's alone."""

    def __init__(self, **options: Any):
        o = self.options = WriterOptions(**options)
        self._chat = o.connect()
        decides = json.dumps([o.model, o.prompts.model_dump(), self._chat.fields], sort_keys=True).encode()
        self.version = f"{o.model} {hashlib.sha256(decides).hexdigest()[:12]}"

    def __call__(self, asks: Sequence[Ask]) -> list[Written | Exception]:
        return each_at_once(self._tried, asks, self.options.at_once)

    def _tried(self, ask: Ask) -> Written | Exception:
        try:
            return self._ask(ask)
        except Exception as error:
            return error

    def _ask(self, ask: Ask) -> Written:
        question = text_part(getattr(self.options.prompts, ask.kind))
        answer = self._chat.ask([user(question, *(image_part(png_of(image)) for image in ask.images()))])
        return Written(self._chat.web.cleaned(answer.text), answer.ended == "length")
