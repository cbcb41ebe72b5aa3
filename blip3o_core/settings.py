"""Settings as frozen classes: strict types, ranges and defaults, from Python values or a YAML file.

One reader for the trainer, GRPO and the recipe. pydantic checks types, ranges and nested mappings and finds all faults
at once; ComfyUI already depends on it. Here its reports become one plain sentence for each fault.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from .errors import Blip3oError, bullet_list, did_you_mean, shown
from .files import read_text
from .yaml_reader import parse_yaml

SETTINGS_LIMIT = 2**18  # bytes


class SettingsError(Blip3oError):
    """Every fault of some settings, a sentence each. `source` is the file they were read from."""

    def __init__(self, faults: Sequence[str], source: str = ""):
        self.faults = list(faults)
        if len(self.faults) == 1:
            super().__init__(f"{source}: {self.faults[0]}" if source else self.faults[0])
        else:
            head = f"{source} has {len(self.faults)} faults:" if source else f"{len(self.faults)} settings are wrong:"
            super().__init__(f"{head}\n{bullet_list(self.faults)}")


def _number(value: Any) -> Any:
    """Numbers may be spelt 1e-4, which YAML reads as text. True and false are not numbers."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("rule", "must be a number")
    return value


def _whole(value: Any) -> Any:
    number = _number(value)
    if not math.isfinite(number) or number != int(number):
        raise PydanticCustomError("rule", "must be a whole number")
    return int(number)


def _sequence(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _expanded(path: str) -> str:
    """`~` at the start is the user's own folder, as in a shell."""
    if "\0" in path:
        raise PydanticCustomError("rule", "must not have a zero byte")
    return os.path.expanduser(path)


Flag = StrictBool
Finite = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
Text = Annotated[StrictStr, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]
BelowOne = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number)]
Whole = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Folder = Annotated[Text, AfterValidator(_expanded)]  # or a file
Texts = Annotated[tuple[Text, ...], BeforeValidator(_sequence)]


class Strict(BaseModel):
    """Settings inside settings. Unknown names, wrong types and values out of range raise pydantic's ValidationError."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound="Settings")


class Settings(Strict):
    """Settings that are complete and valid from the moment they exist; all faults are in one SettingsError."""

    guide: ClassVar[str] = ""  # the page that lists the settings
    advice: ClassVar[dict[str, str]] = {}  # setting -> a sentence for messages about it

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError([_sentence(one, type(self)) for one in _causes(error.errors())]) from None
        if faults := list(self.conflicts()):
            raise SettingsError(faults)

    def conflicts(self) -> Iterator[str]:
        """A sentence for each group of values that are valid alone and not together."""
        yield from ()

    def replace(self: S, **changes: Any) -> S:
        """The settings with some changed, checked again."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def load_settings(
    kind: type[S], path: str | Path, overrides: Sequence[str] = (), variant: Callable[[dict], type[S]] | None = None
) -> S:
    """A YAML file with `key=value` words over it; `train.connector=1e-4` reaches inside. Raises Blip3oError.

    `variant` chooses a class with other defaults than those of `kind` by what the file and the words contain.
    """
    content = _read_yaml(Path(path), kind)
    for word in overrides:
        _override(content, word)
    kind = variant(content) if variant else kind
    source = f"{path} with {shown(' '.join(overrides))}" if overrides else str(path)
    try:
        return kind(**{str(name): value for name, value in content.items()})
    except SettingsError as error:
        raise SettingsError(error.faults, source) from None


def _read_yaml(path: Path, kind: type[Settings]) -> dict:
    example = f"{kind.guide} has an example." if kind.guide else ""
    text = read_text(path, f"Choose a YAML file. {example}".rstrip(), SETTINGS_LIMIT)
    content = parse_yaml(text, str(path), example)
    if not isinstance(content, dict):
        raise Blip3oError(f"{path} contains no settings. Write lines like `steps: 1000`. {example}".rstrip())
    return content


def _override(content: dict, word: str) -> None:
    """Put one `key=value` word into the content, in place."""
    name, equals, text = word.partition("=")
    if not (equals and name and name.isprintable()):  # half characters are not
        raise Blip3oError(f"{shown(word)!r} does not set anything. Write key=value, like steps=100.")
    value = parse_yaml(text, f"The value of {shown(word)!r}", "Put it in quotes.")
    name, dot, inner = name.partition(".")
    if dot:
        outer = content.get(name)
        content[name] = {**(outer if isinstance(outer, dict) else {}), inner: value}
    else:
        content[name] = value


def _causes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without lists that are too short only because their items are wrong."""
    return [
        one
        for one in errors
        if one["type"] != "too_short"
        or not any(other["loc"][: len(one["loc"])] == one["loc"] for other in errors if other is not one)
    ]


_RULES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "dict_type": "must be a mapping, like {{name: value}}",
    "model_type": "must be a mapping, like {{name: value}}",
    "literal_error": "must be {expected}",
    "too_long": "must have at most {max_length} values",
    "rule": "{rule}",
}


def _sentence(error: ErrorDetails, kind: type[Settings]) -> str:
    """One fault that pydantic found, as a sentence with the setting, its value and what is allowed."""
    places = [place for place in error["loc"] if place != "[key]"]
    key = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places).lstrip(".")
    advice = kind.advice.get(str(places[0]), "")
    if error["loc"][-1] == "[key]":
        known = error.get("ctx", {}).get("known", [])
        hint = did_you_mean(error["input"], known) or f"Known names are {', '.join(known)}."
        return f"{places[0]} names {shown(repr(error['input']))}, which {error['msg']}. {hint}"
    if error["type"] == "missing":
        text = f"{key} is missing."
    elif error["type"] == "extra_forbidden":
        text = f"{shown(key)} is not a known setting. {_nearest(places, kind)}"
    else:
        text = f"{key} is {shown(repr(error['input']))}; it {_rule(error)}."
    return f"{text} {advice}".rstrip()


def _rule(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "too_short":
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have {least} values"
    rule = _RULES.get(error["type"])
    bounds = {name: _plain(value) if isinstance(value, int | float) else value for name, value in context.items()}
    return rule.format(**bounds, rule=error["msg"]) if rule else f"is not allowed: {error['msg']}"


def _plain(number: float) -> str:
    """1, 0.5, 1,000,000."""
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def _nearest(places: Sequence, kind: type[Settings]) -> str:
    """The known name that an unknown one resembles, or where all names are listed."""
    guide = f"{kind.guide} lists all settings." if kind.guide else ""
    fields = kind.model_fields
    for place in (one for one in places[:-1] if not isinstance(one, int)):
        fields = next((one.model_fields for one in _models_in(fields.get(place))), {})
    return did_you_mean(str(places[-1]), list(fields)) or guide


def _models_in(field: FieldInfo | None) -> Iterator[type[BaseModel]]:
    """The settings classes whose values a field may have."""
    annotation = field.annotation if field else None
    for one in getattr(annotation, "__args__", (annotation,)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one
