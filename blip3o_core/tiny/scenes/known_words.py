"""Which words of a prompt the tiny world has: its models answer every other word with an image that ignores it."""

import re
from collections.abc import Callable
from functools import cache

from .captions import (
    BACKGROUND_TEMPLATES,
    MORE_OBLONG_OPENINGS,
    MORE_OPENINGS,
    NUMBERS,
    OBLONG_OPENINGS,
    OPENINGS,
    RELATION_WORDS,
    SIZES,
    plural,
)
from .edits import COMPOSE_WORDINGS, WORDINGS
from .shapes import SHAPES
from .textures import ADJECTIVES
from .world import CANVASES, PALETTE

_GLUE = (
    "and with together both next to in that is are exactly pair group of the word text written letters letter number "
    "image"
)
_PIECE = re.compile(r"[^\W\d_]+|\d+")
_SLOT = re.compile(r"\{[a-z_]*\}")  # of a template
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”')


@cache
def known_words() -> frozenset[str]:
    """Those of both editions, in lower case."""
    texts = [_GLUE, *OPENINGS, *MORE_OPENINGS, *OBLONG_OPENINGS, *MORE_OBLONG_OPENINGS, *BACKGROUND_TEMPLATES]
    texts += [*NUMBERS, *SHAPES, *map(plural, SHAPES), *PALETTE, *ADJECTIVES.values(), *CANVASES]
    texts += [word for words in (*SIZES.values(), *RELATION_WORDS.values()) for word in words]
    kinds = (*WORDINGS.values(), COMPOSE_WORDINGS)
    texts += [wording for kind in kinds for wordings in kind for wording in wordings]
    texts += map(str, range(10))
    return frozenset(_PIECE.findall(_SLOT.sub(" ", " ".join(texts)).lower()))


def unknown_words(prompt: str, is_token: Callable[[str], bool]) -> list[str]:
    """The words of a prompt that no caption or instruction of the world has, once each. What is in quotes is to be
    written, so it does not count.

    `is_token`: whether the tokenizer has a word. That of an earlier edition lacks words of a later one.
    """
    found = _PIECE.findall(_QUOTED.sub(" ", prompt).lower())
    return [word for word in dict.fromkeys(found) if word not in known_words() or not is_token(word)]
