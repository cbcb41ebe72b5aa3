"""Rewards as they are named in settings: a list of names, or of mappings with a weight and options."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from ..settings import Finite, Positive, Settings, Strict

OnError = Literal["stop", "skip"]
TIMEOUT = 300.0  # seconds


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise PydanticCustomError("rule", "must be 1 to 64 letters, digits, '_', '-' or '.'")
    return value


Name = Annotated[StrictStr, AfterValidator(_name)]


class NamedReward(Strict):
    """One reward, whatever its numbers are for. The word `text` alone is `{name: text}`."""

    name: Name  # of a built-in reward, and in logs
    use: Annotated[StrictStr, Field(min_length=1)] | None = None  # a built-in's name, or own code: "module:name"
    timeout: Annotated[Positive, Field(le=1e6)] = TIMEOUT  # seconds
    on_error: OnError = "stop"
    options: dict[str, Any] = Field(default_factory=dict)  # the reward's own

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class RewardSettings(NamedReward):
    """A reward that counts with a weight among others."""

    weight: Annotated[Finite, Field(ge=-1e6, le=1e6)] = 1.0


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Rewards = Annotated[tuple[RewardSettings, ...], Field(min_length=1, max_length=32), BeforeValidator(_listed)]


class RewardList(Settings):
    """A YAML file that has only rewards."""

    guide: ClassVar[str] = "docs/rewards.md"

    rewards: Rewards
