"""Texts by a model behind an OpenAI-compatible address."""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ...errors import Blip3oError
from ...rewards.chat import Chat, image_part, key_from_environment, text_part, user
from ...rewards.vlm import sendable
from ...rewards.web import Web
from ...rewards.wire import png_of
from ...settings import Count, NotNegative, Positive, Settings, Strict, Text, Whole
from .writers import PROMPTS, Ask, Written


class Prompts(Strict):
    """What the model is asked for each kind of text."""

    long: Text = PROMPTS["long"]
    short: Text = PROMPTS["short"]
    instruction: Text = PROMPTS["instruction"]


class ChatOptions(Settings):
    guide: ClassVar[str] = "docs/curation_models.md"
    advice: ClassVar[dict[str, str]] = {
        "url": "It is the address before /chat/completions, like http://127.0.0.1:8000/v1.",
        "model": "It is the name that the server gives the model.",
    }

    url: Text
    model: Text
    prompts: Prompts = Prompts()
    key_variable: Text | None = None  # the environment variable that holds the server's key
    at_once: Annotated[Count, Field(le=256)] = 4  # questions
    temperature: NotNegative | None = 0.0  # None: not sent, for models that refuse it
    seed: Whole | None = 0  # None: not sent
    most_tokens: Annotated[Count, Field(le=1_000_000)] | None = 512  # of an answer, as max_tokens. None: not sent
    fields: dict[str, Any] = Field(default_factory=dict)  # further ones of every request
    timeout: Annotated[Positive, Field(le=86_400)] = 120.0  # seconds for one answer
    retries: Annotated[Whole, Field(le=100)] = 4
    wait: Annotated[NotNegative, Field(le=300)] = 2.0  # seconds before the first new try; doubled each time
    most_bytes: Annotated[Count, Field(le=2**30)] = 2**20  # of an answer


class ChatWriter:
    """Asks several questions at a time. A fault of one is that one's alone."""

    def __init__(self, **options: Any):
        o = self.options = ChatOptions(**options)
        web = Web(o.timeout, o.retries, o.wait, o.most_bytes, key_from_environment(o.key_variable))
        sent = {"temperature": o.temperature, "seed": o.seed, "max_tokens": o.most_tokens}
        fields = {name: value for name, value in sent.items() if value is not None} | sendable(o.fields)
        self._chat = Chat(o.url, o.model, web, fields)
        decides = json.dumps([o.model, o.prompts.model_dump(), fields], sort_keys=True).encode()
        self.version = f"{o.model} {hashlib.sha256(decides).hexdigest()[:12]}"

    def __call__(self, asks: Sequence[Ask]) -> list[Written | Exception]:
        waiting = deque(enumerate(asks))
        found: list[Written | Exception] = [Blip3oError("It was not asked.")] * len(asks)

        def work() -> None:
            while True:
                try:
                    place, ask = waiting.popleft()
                except IndexError:  # another thread took the last
                    return
                try:
                    found[place] = self._ask(ask)
                except Exception as error:
                    found[place] = error

        # Daemons: a server that never answers must not keep the process from ending, as a pool's threads would.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self.options.at_once, len(asks)))]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return found

    def _ask(self, ask: Ask) -> Written:
        question = text_part(getattr(self.options.prompts, ask.kind))
        answer = self._chat.ask([user(question, *(image_part(png_of(image)) for image in ask.images()))])
        return Written(self._chat.web.cleaned(answer.text), answer.ended == "length")
