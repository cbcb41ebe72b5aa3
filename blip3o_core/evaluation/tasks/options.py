"""Options of tasks, which come as words: read strictly, with unknown ones named."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import Blip3oError, did_you_mean, shown


def read_options(task: str, given: Mapping[str, str], known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of the options that are given. `known`: each name with what reads its word, or raises ValueError."""
    values = {}
    for name, word in given.items():
        if name not in known:
            listed = f"Its options are {', '.join(known)}." if known else "It has none."
            raise Blip3oError(f"{task} has no option {shown(name, 60)!r}. {did_you_mean(name, list(known)) or listed}")
        try:
            values[name] = known[name](word)
        except Blip3oError as error:
            raise Blip3oError(f"{task}: the option {name} is {shown(repr(word), 80)}. {error}") from None
    return values


def whole(least: int, most: int) -> Callable[[str], int]:
    def read(word: str) -> int:
        if not (word.isascii() and word.isdigit()) or len(word) > 9 or not least <= int(word) <= most:
            raise Blip3oError(f"Give a whole number from {least} to {most:,}.")
        return int(word)

    return read


def one_of(*choices: str) -> Callable[[str], str]:
    def read(word: str) -> str:
        if word not in choices:
            raise Blip3oError(f"Give one of {', '.join(choices)}.")
        return word

    return read


def yes_or_no(word: str) -> bool:
    return one_of("yes", "no")(word) == "yes"


def refuse_data(task: str, data: Path | None) -> None:
    """For tasks that need no files."""
    if data is not None:
        raise Blip3oError(f"{task} makes its items itself. Leave --data out.")
