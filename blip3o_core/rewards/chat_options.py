"""What a user says about a model behind an OpenAI-compatible address, for judges and for writers of texts."""

import json
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ..errors import Blip3oError, shown
from ..settings import Count, NotNegative, Positive, Settings, Text, Whole
from .chat import Chat, key_from_environment
from .web import Web

Tokens = Annotated[Count, Field(le=1_000_000)]


class ChatOptions(Settings):
    advice: ClassVar[dict[str, str]] = {
        "url": "It is the address before /chat/completions, like http://127.0.0.1:8000/v1.",
        "model": "It is the name that the server gives the model.",
    }

    url: Text
    model: Text
    key_variable: Text | None = None  # the environment variable that holds the server's key
    at_once: Annotated[Count, Field(le=256)] = 4  # questions
    temperature: NotNegative | None = 0.0  # None: not sent, for models that refuse it
    seed: Whole | None = 0  # None: not sent
    most_tokens: Tokens | None = 512  # of an answer, as max_tokens. None: not sent
    fields: dict[str, Any] = Field(default_factory=dict)  # further ones of every request
    timeout: Annotated[Positive, Field(le=86_400)] = 120.0  # seconds for one answer
    retries: Annotated[Whole, Field(le=100)] = 4
    wait: Annotated[NotNegative, Field(le=300)] = 2.0  # seconds before the first new try; doubled each time
    most_bytes: Annotated[Count, Field(le=2**30)] = 2**20  # of an answer

    def connect(self) -> Chat:
        """The model at the address. Raises Blip3oError for a key that is missing, and for fields that are no JSON."""
        web = Web(self.timeout, self.retries, self.wait, self.most_bytes, key_from_environment(self.key_variable))
        sent = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.most_tokens}
        try:
            json.dumps(self.fields, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise Blip3oError(f"fields cannot be sent as JSON: {shown(error)}. Use text, numbers and lists.") from error
        fields = {name: value for name, value in sent.items() if value is not None} | self.fields
        return Chat(self.url, self.model, web, fields)
