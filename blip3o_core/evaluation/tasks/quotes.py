"""Prompts that ask for text, made from lists of words: five kinds of text on things that have text on them.

They belong to this project, so nothing has to be fetched. Prompt k of a kind is the same however many there are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ...seeds import seed_of

_PLACES = """
a wooden sign above the door of a small shop
a neon sign in a dark street
a chalkboard on the wall of a kitchen
a road sign beside a quiet country road
the cover of an old book on a desk
a paper cup on a table by the window
a white T-shirt on a hanger
a poster on a brick wall
a birthday cake on a plate
a banner above a stage
a metal plate on a green door
a postcard on a fridge
the screen of a laptop in a library
a flag in the wind
a label on a glass bottle
a ticket in an open hand
a billboard over a highway
a note on a desk, written by hand
a stone above the gate of a garden
the side of a blue van
""".strip().splitlines()
_WORDS = """
    apple autumn bakery basket beach bicycle bird bread bridge butter candle castle cherry circus cloud coffee copper
    corner cotton dance desert dinner dolphin dragon dream eagle engine evening falcon farmer feather festival flower
    forest fountain friend garden ginger guitar hammer harbor harvest honey island jacket jungle kitchen ladder lantern
    lemon library lion lunch magic maple market meadow melon midnight mirror morning mountain music night ocean olive
    orange orchard paper parade pepper piano pilot planet pocket pumpkin puzzle rabbit rain river rocket saddle salmon
    school season shadow silver singer sister spring station stone story summer sunset table thunder ticket tiger tower
    travel tulip valley velvet village violin wagon walnut water whisper window winter wizard yellow zebra
""".split()
_SENTENCES = """
please close the {} behind you
every {} tells a different {}
the {} opens after the {}
never trade a {} for a {}
meet us by the old {} at noon
fresh {} and warm {} every day
do not feed the {} in the {}
one {} is worth a hundred {}
follow the {} to the little {}
this {} was here before the {}
""".strip().splitlines()


class Prompt(NamedTuple):
    kind: str
    text: str
    asked: list[str]  # what stands in its quotation marks


class _Choice:
    """The choices of one prompt, each by its own hash."""

    def __init__(self, *key):
        self.key, self.count = key, 0

    def number(self, most: int) -> int:
        self.count += 1
        return seed_of("quoted prompts", *self.key, self.count) % most

    def of(self, values: Sequence[str]) -> str:
        return values[self.number(len(values))]


def _styled(choice: _Choice, text: str) -> str:
    return choice.of([text.upper(), text.title(), text])


def _word(choice: _Choice) -> list[str]:
    return [_styled(choice, choice.of(_WORDS))]


def _words(choice: _Choice) -> list[str]:
    return [_styled(choice, " ".join(choice.of(_WORDS) for _ in range(2 + choice.number(2))))]


def _sentence(choice: _Choice) -> list[str]:
    pattern = choice.of(_SENTENCES)
    text = pattern.format(*(choice.of(_WORDS) for _ in range(pattern.count("{}"))))
    return [choice.of([text.upper(), text.capitalize()])]


def _number(choice: _Choice) -> list[str]:
    hour, minute = choice.number(24), choice.number(60)
    price, change, year, room = (
        1 + choice.number(99),
        choice.number(100),
        1900 + choice.number(150),
        choice.number(9000),
    )
    return [
        choice.of(
            [f"{hour:02d}:{minute:02d}", f"${price}.{change:02d}", f"{year}", f"Room {1000 + room}", f"{price} km"]
        )
    ]


def _two(choice: _Choice) -> list[str]:
    first, second = choice.of(_WORDS), choice.of(_WORDS)
    return [first.upper(), second.title()]


KINDS: dict[str, Callable[[_Choice], list[str]]] = {
    "word": _word,
    "words": _words,
    "sentence": _sentence,
    "number": _number,
    "two texts": _two,
}


def prompts(count: int) -> Iterator[Prompt]:
    """`count` different prompts, the kinds in turn."""
    seen: set[str] = set()
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        attempt = 0
        while (prompt := _prompt(kind, index // len(KINDS), attempt)).text in seen:
            attempt += 1
        seen.add(prompt.text)
        yield prompt


def _prompt(kind: str, number: int, attempt: int) -> Prompt:
    choice = _Choice(kind, number, attempt)
    place, texts = choice.of(_PLACES), KINDS[kind](choice)
    if len(texts) == 1:
        return Prompt(kind, f'{place.capitalize()} with the text "{texts[0]}" on it.', texts)
    return Prompt(
        kind,
        f'{place.capitalize()} with the text "{texts[0]}" on it, and "{texts[1]}" in smaller letters below.',
        texts,
    )
