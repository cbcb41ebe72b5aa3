"""Questions with images to a model behind an OpenAI-compatible address (`/v1/chat/completions`).

vLLM, llama.cpp, Ollama, SGLang and hosted services speak it. Nothing here knows what is asked, or why.
"""

import base64
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Blip3oError, shown
from .web import BadAnswer, Web, check_url

# Statuses of a request that one image makes impossible; others may work.
ABOUT_THE_IMAGE = (400, 413, 415, 422)
_PATH = "/chat/completions"


@dataclass(frozen=True)
class Answer:
    text: str
    ended: str  # why the model stopped writing: "stop", "length" where its tokens were used up, ...
    model: str  # which model the server says it was


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


def image_part(data: bytes, kind: str = "image/png") -> dict:
    """An image file inside the message itself, as a data URL."""
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def key_from_environment(variable: str | None) -> str:
    """The key that an environment variable holds, "" for None. Raises Blip3oError, which never says the key."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise Blip3oError(f"The environment variable {shown(variable)} is empty. Set it to the key of the server.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise Blip3oError(f"The environment variable {shown(variable)} has characters that no key has. Set it again.")
    return key


@dataclass(frozen=True)
class Chat:
    """A model at an address. `fields`: further ones of every request, such as temperature and seed.

    `url` ends before `/chat/completions`, as in http://127.0.0.1:8000/v1.
    """

    url: str
    model: str
    web: Web = Web()
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "url", check_url(self.url).removesuffix(_PATH))

    def ask(self, messages: Sequence[dict]) -> Answer:
        """The model's answer. Raises NoAnswer, Refused or BadAnswer of `web`."""
        address = self.url + _PATH
        content = self.web.post(address, {**self.fields, "model": self.model, "messages": list(messages)})
        try:
            choice = content["choices"][0]
            message = choice["message"]
            text = message.get("content")
            # A refusal stands in a field of its own; what a model only thought is no answer.
            text = message.get("refusal") or "" if text is None else _joined(text)
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError):
            raise BadAnswer(
                f"{shown(address)} answered without choices[0].message.content, so it is not a chat address that this "
                f"program knows: {self.web.cleaned(shown(content))}. Check the address and the name of the model."
            ) from None
        ended, model = choice.get("finish_reason"), content.get("model")
        return Answer(text, ended if isinstance(ended, str) else "", model if isinstance(model, str) else self.model)

    def facts(self, answer: Answer) -> dict:
        """What a kept answer says of where it is from."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"model": self.model, "answered_by": answer.model, "ended": answer.ended, "time": when}


def _joined(content: Any) -> Any:
    """Some servers answer with a list of parts, as questions have."""
    if not isinstance(content, list):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")
