"""The one exception for mistakes that a user can make and correct."""

import difflib
import unicodedata
from collections.abc import Sequence

MESSAGE_LIMIT = 8_000  # characters


class Blip3oError(ValueError):
    """Bad input: the message names the value, the reason and the next step. Nothing was changed when it is raised.

    Names from files and requests are part of messages, so these are printable: they move no cursor, hide no text, and
    every output can encode them.
    """

    __module__ = "builtins"  # ComfyUI shows a type with its module, which for a pack's is a path on this machine

    def __init__(self, message: str = ""):
        text = printable(str(message))
        more = len(text) - MESSAGE_LIMIT
        super().__init__(f"{text[:MESSAGE_LIMIT]}... ({more:,} characters more)" if more > 0 else text)

    def __reduce__(self):
        kind = None if type(self) is Blip3oError else type(self)  # `pickle` looks for a class in its module
        return _again, (kind, self.args, self.__dict__)


def _again(kind: type | None, words: tuple, fields: dict) -> Blip3oError:
    error = Blip3oError.__new__(kind or Blip3oError)
    error.args = words
    error.__dict__.update(fields)
    return error


def printable(text: str) -> str:
    """Text with escape codes, marks of direction, halves of characters and the like spelt out; lines stay lines."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        one if one == "\n" or one.isprintable() or unicodedata.category(one) == "Zs" else repr(one)[1:-1]
        for one in text
    )


def bullet_list(lines: Sequence[str], most: int = 30) -> str:
    """One indented line for each, at most `most`, then how many more there are."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(f"  {line}" for line in [*lines[:most], *more])


def first_line(error: BaseException) -> str:
    """Why something failed, in one line that is never empty: the type where there is no message."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0].rstrip() if text else type(error).__name__


def shown(value: object, most: int = 200) -> str:
    """A value as messages show it: printable, and cut when it is long."""
    text = str(value)
    text = text if text.isprintable() else repr(text)  # in one line
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how Python or torch say that memory is full; torch has no type of its own for it on the CPU."""
    text = str(error).lower()
    words = ("out of memory", "not enough memory", "allocate memory", "bad allocation", "bad_alloc")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(w in text for w in words)


def did_you_mean(name: str, known: Sequence[str], nearness: float = 0.5) -> str:
    """ "Did you mean connector?", or nothing when no known name is near. Capital letters count as small ones."""
    name, names = name.lower(), {each.lower(): each for each in known}
    begun = [each for each in names if name and each.startswith(name)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(name, list(names), 1, nearness)
    return f"Did you mean {names[near[0]]}?" if near else ""
