"""What a caption of the tiny world asks for: the reverse of `captions`, also for captions that a person writes."""

import re

from .captions import MORE_OPENINGS, NUMBERS, OPENINGS, RELATION_WORDS, SIZES
from .shapes import SHAPES
from .spec import MAX_OBJECTS, Expected, Spec
from .textures import ADJECTIVES
from .world import CANVASES, COLOURS, DEFAULT_BACKGROUND, PALETTE

_SIZE_OF = {word: size for size, words in SIZES.items() for word in words}
_RELATION_OF = {words: relation for relation, forms in RELATION_WORDS.items() for words in forms}
_TEXTURE_OF = {word: kind for kind, word in ADJECTIVES.items()}
_COUNT_OF = {"a": 1, "an": 1, "the": 1, "pair": 2} | {word: k for k, word in enumerate(NUMBERS) if k}
_COUNT_OF |= {str(k): k for k in range(1, len(NUMBERS))}


def _any(words) -> str:
    """A pattern for one of the words, the longest that fits."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_COLOUR, _GROUND, _SURFACE = _any(COLOURS), _any(PALETTE), _any(_TEXTURE_OF)
_SHAPE_OF_IMAGE = re.compile(rf"^(?:(?:draw|show) )?an? (?P<canvas>{_any(CANVASES)}) (?:image|picture|drawing) of ")
_OPENING = re.compile(
    f"({_any(words.format(**{'is': 'is'}).strip() for words in OPENINGS[1:] + MORE_OPENINGS)}|there are) "
)
_BEHIND = re.compile(
    rf"^(?P<rest>.*?) (?:(?:on|against) an? (?:(?P<surface>{_SURFACE}) )?(?P<ground>{_GROUND}) background|"
    rf"on (?:(?P<surface_2>{_SURFACE}) )?(?P<plain>{_GROUND}))$"
)
_BEFORE = re.compile(
    rf"^(?:on )?an? (?:(?P<surface>{_SURFACE}) )?(?P<ground>{_GROUND}) background"
    rf"(?:,? there (?:is|are)|,| with) (?P<rest>.*)$"
)
_OBJECTS = re.compile(
    rf"^(?:exactly )?(?:a group of |a (?=pair of))?(?P<number>{_any(_COUNT_OF)})(?: of)? "
    rf"(?:(?P<size>{_any(_SIZE_OF)}) )?(?:(?P<surface>{_SURFACE}) )?(?:(?P<colour>{_COLOUR}) )?"
    rf"(?P<shape>{_any(SHAPES)})(?:e?s)?"
    rf"(?: in (?P<ink>{_COLOUR})| that (?:is|are) (?:(?P<ink_2>{_COLOUR})|(?P<size_2>{_any(_SIZE_OF)})))?$"
)
_RELATED = re.compile(rf"^(?P<first>.+?) (?:is )?(?P<relation>{_any(_RELATION_OF)}) (?P<second>.+)$")
_RELATED_FIRST = re.compile(rf"^(?P<relation>{_any(_RELATION_OF)}) (?P<second>.+?),? there is (?P<first>.+)$")
_BETWEEN = re.compile(r",? and |, | together with | with | next to ")
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')
_WRITTEN = re.compile(
    rf"^(?:the (?:word|text|letter|number) )?\"\"(?: written)? in (?P<ink>{_COLOUR})(?: letters)?$"
    rf"|^(?:the|an?) (?P<colour>{_COLOUR}) (?:word )?\"\"$"
)


def read_caption(prompt: str) -> Spec | None:
    """None for a prompt that is no caption of this world, such as one with a word that it does not have."""
    quoted = _QUOTED.findall(prompt)
    text = " ".join(_QUOTED.sub('""', prompt).lower().split()).strip(" .!")
    shaped = _SHAPE_OF_IMAGE.match(text)
    canvas = CANVASES[shaped["canvas"]] if shaped else None
    background, surface, text = _background_of(text[shaped.end() :] if shaped else text)
    text = _OPENING.sub("", text, count=1) if _OPENING.match(text) and not shaped else text
    if quoted:
        return _read_word(text, "".join(quoted[0]), background, surface, canvas) if len(quoted) == 1 else None
    related = _RELATED_FIRST.match(text) or _RELATED.match(text)
    relation = (0, _RELATION_OF[related["relation"]], 1) if related else None
    names = [related["first"], related["second"]] if related else _BETWEEN.split(text.removeprefix("both "))
    objects = [_objects_of(name) for name in names]
    if not all(objects) or related and any(len(each) > 1 for each in objects):
        return None
    expected = tuple(each for several in objects for each in several)
    spec = Spec(expected, background, relation, texture=surface, canvas=canvas)
    return spec if len(expected) <= MAX_OBJECTS else None


def _read_word(text: str, word: str, background: str, surface: str | None, canvas) -> Spec | None:
    """A word alone, or beside an object."""
    for name in (text, *_BETWEEN.split(text)):
        written = _WRITTEN.match(name)
        others = [each for each in _BETWEEN.split(text) if each != name] if name != text else []
        objects = [_objects_of(other) for other in others]
        if written and all(len(each) == 1 for each in objects):
            found = tuple(each[0] for each in objects)
            return Spec(found, background, None, word, written["ink"] or written["colour"], surface, canvas)
    return None


def _background_of(text: str) -> tuple[str, str | None, str]:
    """(background, its texture, the words that are left)."""
    found = _BEFORE.match(text) or _BEHIND.match(text)
    if found is None:
        return DEFAULT_BACKGROUND, None, text
    groups = found.groupdict()
    surface = _TEXTURE_OF.get(groups["surface"] or groups.get("surface_2"))
    return groups.get("plain") or groups["ground"], surface, groups["rest"]


def _objects_of(name: str) -> list[Expected]:
    """ "two red circles" -> two of them; nothing for other words."""
    found = _OBJECTS.match(name.strip())
    if found is None:
        return []
    size = found["size"] or found["size_2"]
    colour, texture = found["colour"] or found["ink"] or found["ink_2"], _TEXTURE_OF.get(found["surface"])
    one = Expected(found["shape"], colour, _SIZE_OF.get(size), None, texture)
    return [one] * _COUNT_OF[found["number"]]
