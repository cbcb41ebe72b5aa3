"""What a user says about a judge, in a YAML file. Each benchmark has the defaults of its own script."""

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from ...rewards.chat_options import ChatOptions
from ...settings import Count, Folder

Tries = Annotated[Count, Field(le=10)]
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class JudgeOptions(ChatOptions):
    guide: ClassVar[str] = "docs/evaluation_judges.md"
    advice: ClassVar[dict[str, str]] = {
        **ChatOptions.advice,
        "prompts": "It is the benchmark's file with the judge's prompts, or the folder that it is in.",
    }
    # What published numbers were judged by, and the names that servers give it, in small letters.
    published_by: ClassVar[str]
    own_models: ClassVar[tuple[str, ...]]

    prompts: Folder
    tries: Tries = 1  # for an answer in the form that the benchmark asks for

    def is_own_model(self) -> bool:
        """Whether the server's name for the model is that of the benchmark's own judge."""
        name = self.model.lower().rpartition("/")[2]
        return name in self.own_models or _DATE.sub("", name) in self.own_models

    def notes(self) -> Iterator[str]:
        """What keeps the numbers from being comparable with published ones."""
        if not self.is_own_model():
            yield f"judged by {self.model}, not comparable with published {self.published_by} numbers"
        for name in ("temperature", "seed", "most_tokens", "fields", "tries"):
            own, given = type(self).model_fields[name].get_default(call_default_factory=True), getattr(self, name)
            if given != own:
                yield f"{name} is {given}; the benchmark's own script has {own}"
