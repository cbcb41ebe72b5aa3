"""Which words of a prompt the tiny world has: it answers every other word with an image that ignores it."""

import re
from functools import cache

from .captions import BACKGROUND_TEMPLATES, MORE_OPENINGS, NUMBERS, OPENINGS, RELATION_WORDS, SIZES, plural
from .edits import WORDINGS
from .shapes import SHAPES
from .world import PALETTE

_GLUE = (
    "and with together both next to in that is are exactly pair group of the word text written letters letter number "
    "image reference"
)
_PIECE = re.compile(r"[^\W\d_]+|\d+")
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”')


@cache
def known_words() -> frozenset[str]:
    """Lower case."""
    texts = [_GLUE, *OPENINGS, *MORE_OPENINGS, *BACKGROUND_TEMPLATES, *NUMBERS, *SHAPES, *map(plural, SHAPES), *PALETTE]
    texts += [word for words in (*SIZES.values(), *RELATION_WORDS.values()) for word in words]
    texts += [wording for kinds in WORDINGS.values() for wordings in kinds for wording in wordings]
    texts += map(str, range(10))
    return frozenset(_PIECE.findall(" ".join(texts).lower()))


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that no caption or instruction of the world has, once each. What is in quotes is to be
    written, so it does not count.
    """
    found = _PIECE.findall(_QUOTED.sub(" ", prompt).lower())
    return [word for word in dict.fromkeys(found) if word not in known_words()]
