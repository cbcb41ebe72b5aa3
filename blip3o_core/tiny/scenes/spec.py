"""What a caption asks for, what was detected in an image, and whether the two agree.

An image is right when it shows the named objects and no others, whole, with the right shape, named colour and texture,
number, relation, size class and background, the word in quotes, and the shape that the caption gives the image.
Nothing here reads pixels: `detection_of` gives the perfect detection of a scene, so `compare` also tells whether a
scene is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import NamedTuple

from .captions import SHAPE_WORDS, with_article
from .textures import ADJECTIVES, SOLID, Texture
from .world import DEFAULT_BACKGROUND, MARGIN, SQUARE, UNITS, Scene, SceneObject, relation_offsets

SIZE_BORDER = 20  # units of radius: small below, large from here on
POSITION_TOLERANCE = 8  # units between the centre of an object and where it must be
MAX_SIDEWAYS = 1.0  # offset across a relation's axis, as a share of the one along it; scenes are made with at most 0.6
MAX_OBJECTS = 6  # detected objects that are compared: more are too many in any case

# Weights of the parts of the credit
_BACKGROUND, _NUMBER, _RELATION, _OBJECTS = 1.0, 1.5, 1.5, 4.0
_WORD_COLOUR, _WORD_WHOLE, _WORD_TEXT = 1.0, 0.5, 4.0
_TEXTURE, _CANVAS = 0.5, 1.0
MAX_STRETCH = 0.05  # of the ratio of an image's sides


@dataclass(frozen=True)
class Expected:
    """An object that must be there. None allows anything."""

    shape: str
    colour: str | None = None
    size: str | None = None  # "small" or "large"
    position: tuple[float, float] | None = None  # centre of the box, in units
    texture: str | None = None  # a kind; "solid" is never asked for

    def __str__(self) -> str:
        surface = ADJECTIVES.get(self.texture)
        return " ".join(["the", *(word for word in (self.size, surface, self.colour, self.shape) if word)])


@dataclass(frozen=True)
class Spec:
    """What an image must show: objects, a word, or both."""

    objects: tuple[Expected, ...] = ()
    background: str = DEFAULT_BACKGROUND
    relation: tuple[int, str, int] | None = None  # objects[first] is "left of" objects[second]
    word: str | None = None
    word_colour: str | None = None
    texture: str | None = None  # of the background
    canvas: tuple[int, int] | None = None  # of an image that must not be square, in units

    @property
    def textured(self) -> bool:
        return self.texture is not None or any(expected.texture for expected in self.objects)


@dataclass(frozen=True)
class Detected:
    """An object found in an image. None means that nothing fits."""

    shape: str | None
    colour: str | None
    x: float  # centre of the box, in units
    y: float
    radius: float
    cut: bool = False  # by the edge of the image
    similarity: dict[str, float] = field(default_factory=dict, compare=False)  # to each shape, 0 to 1
    texture: str | None = None  # a kind or "solid"; None too where nobody asked


@dataclass(frozen=True)
class DetectedWord:
    text: str  # "?" where a character cannot be read
    colour: str | None
    cut: bool = False


@dataclass(frozen=True)
class Detection:
    """Everything found in an image."""

    background: str | None
    objects: tuple[Detected, ...] = ()
    word: DetectedWord | None = None
    texture: str | None = None  # of the background
    size: tuple[int, int] = SQUARE  # width and height; only their ratio counts


@dataclass(frozen=True)
class Verdict:
    strict: bool  # everything is right
    layout: bool  # number, named colours, positions and background are right; of a word its length and colours
    credit: float  # 0 to 1, for reinforcement learning; 1 exactly when strict
    reasons: tuple[str, ...]  # what is wrong, in words; empty exactly when strict
    detection: Detection
    letters_off: int | None = None  # edit distance of the word
    outside: float | None = None  # of an edit: mean absolute error, of 255, over pixels that must not change
    surfaces: float | None = None  # the same over those that have a texture; None where no pixel has


def spec_of(scene: Scene) -> Spec:
    """What the scene's caption says, and no more."""

    def named(texture: Texture) -> str | None:
        return texture.kind if scene.textures_named and texture != SOLID else None

    objects = [
        Expected(obj.shape, obj.colour if scene.colours_named else None, None, None, named(obj.texture))
        for obj in scene.objects
    ]
    if scene.size:
        objects[0] = replace(objects[0], size=scene.size)
    return Spec(
        tuple(objects),
        scene.background,
        (0, scene.relation, 1) if scene.relation else None,
        scene.word.text if scene.word else None,
        scene.word.colour if scene.word else None,
        named(scene.texture),
        scene.canvas if scene.canvas != SQUARE else None,
    )


def detection_of(scene: Scene) -> Detection:
    """The detection that a perfect detector would return for the scene."""
    size = scene.canvas
    word = DetectedWord(scene.word.text, scene.word.colour, _is_cut(scene.word.box, size)) if scene.word else None
    objects = tuple(
        Detected(obj.shape, obj.colour, *box_centre(obj), obj.radius, _is_cut(obj.box, size), {}, obj.texture.kind)
        for obj in scene.objects
    )
    return Detection(scene.background, objects, word, scene.texture.kind, size)


def box_centre(obj: SceneObject) -> tuple[float, float]:
    """Centre of the object's box, which a detector knows before it knows the shape."""
    left, top, right, bottom = obj.box
    return (left + right) / 2, (top + bottom) / 2


def _is_cut(box, canvas: tuple[int, int]) -> bool:
    return min(box[:2]) <= 0 or box[2] >= canvas[0] or box[3] >= canvas[1]


class Check(NamedTuple):
    """One thing that must be right."""

    weight: float  # in the credit
    credit: float  # 0 to 1
    reasons: list[str]  # what is wrong


def compare(detection: Detection, spec: Spec) -> Verdict:
    """The verdict: every check of the spec, with its weight in the credit and its reasons."""
    largest = sorted(detection.objects, key=lambda obj: -obj.radius)[:MAX_OBJECTS]
    background = _check_background(detection, spec)
    letters_off, layout = None, not background.reasons
    checks = []
    if spec.word is not None:
        letters_off, fits, checks = _check_word(detection.word, spec)
        layout = layout and fits
    if spec.word is None or spec.objects or detection.objects:
        assigned = best_assignment(largest, spec)
        number = _check_number(detection, spec)
        checks += [number, _check_objects(assigned, spec), _check_relation(assigned, spec)]
        layout = layout and not number.reasons and _layout_is_right(largest, spec)
    canvas = _check_canvas(detection, spec)
    layout = layout and not canvas.reasons
    # The background comes first in the credit, whose sum depends on the order in its last bit, and late in the reasons.
    others = [_check_texture(detection, spec), canvas]
    reasons = tuple(reason for check in (*checks, background, *others) for reason in check.reasons)
    return Verdict(not reasons, layout, _credit(background, *checks, *others), reasons, detection, letters_off)


def best_assignment(detected: Sequence[Detected], spec: Spec) -> tuple[Detected | None, ...]:
    """The detected object for each expected one, None where one is missing: of all assignments the one of most credit.

    The relation couples the objects, so every assignment is tried. One that is right throughout scores highest.
    """
    if not spec.objects:
        return ()
    candidates = [*detected, *[None] * max(len(spec.objects) - len(detected), 0)]
    credits = [[_object_credit(expected, obj) for obj in candidates] for expected in spec.objects]

    def score(order: tuple[int, ...]) -> float:
        total = sum(row[k] for row, k in zip(credits, order, strict=True))
        related = _is_related([candidates[k] for k in order], spec)
        return total / len(spec.objects) * _OBJECTS + related * _RELATION

    best = max(permutations(range(len(candidates)), len(spec.objects)), key=score)
    return tuple(candidates[k] for k in best)


def _layout_is_right(detected: Sequence[Detected], spec: Spec) -> bool:
    """Whether some assignment has all named colours, positions and the relation right, whatever the shapes."""

    def fits(expected: Expected, obj: Detected) -> bool:
        return _is_in_position(expected, obj) and expected.colour in (None, obj.colour)

    return any(
        all(map(fits, spec.objects, assigned)) and _is_related(assigned, spec)
        for assigned in permutations(detected, len(spec.objects))
    )


# ---- checks


def _check_background(detection: Detection, spec: Spec) -> Check:
    if detection.background == spec.background:
        return Check(_BACKGROUND, 1.0, [])
    reason = f"the background is {detection.background or 'an unclear colour'}, not {spec.background}"
    return Check(_BACKGROUND, 0.0, [reason])


def _check_number(detection: Detection, spec: Spec) -> Check:
    detected, expected = len(detection.objects), len(spec.objects)
    if detected == expected:
        return Check(_NUMBER, 1.0, [])
    reason = f"{detected or 'no'} object{'s' * (detected != 1)} instead of {expected}"
    return Check(_NUMBER, min(detected, expected) / max(detected, expected), [reason])


def _check_objects(assigned: Sequence[Detected | None], spec: Spec) -> Check:
    if not spec.objects:
        return Check(0.0, 0.0, [])
    credits = [_object_credit(expected, obj) for expected, obj in zip(spec.objects, assigned, strict=True)]
    reasons = [
        reason
        for expected, obj in zip(spec.objects, assigned, strict=True)
        for reason in (_object_reasons(expected, obj) if obj else [f"{expected} is missing"])
    ]
    return Check(_OBJECTS, sum(credits) / len(credits), reasons)


def _check_relation(assigned: Sequence[Detected | None], spec: Spec) -> Check:
    if spec.relation is None:
        return Check(0.0, 0.0, [])
    if _is_related(assigned, spec):
        return Check(_RELATION, 1.0, [])
    first, relation, second = spec.relation
    return Check(_RELATION, 0.0, [f"{spec.objects[first]} is not {relation} {spec.objects[second]}"])


def _check_texture(detection: Detection, spec: Spec) -> Check:
    """Of the background."""
    if spec.texture is None:
        return Check(0.0, 0.0, [])
    if detection.texture == spec.texture:
        return Check(_TEXTURE, 1.0, [])
    return Check(_TEXTURE, 0.0, [f"the background is {_surface(detection.texture)}, not {ADJECTIVES[spec.texture]}"])


def _check_canvas(detection: Detection, spec: Spec) -> Check:
    if spec.canvas is None:
        return Check(0.0, 0.0, [])
    if has_ratio(detection.size, spec.canvas):
        return Check(_CANVAS, 1.0, [])
    width, height = detection.size
    return Check(_CANVAS, 0.0, [f"the image is {width}x{height}, not {SHAPE_WORDS.get(spec.canvas, spec.canvas)}"])


def has_ratio(size: tuple[int, int], canvas: tuple[int, int]) -> bool:
    """Whether width and height are those of the canvas, but for a common factor and a little."""
    return abs(size[0] * canvas[1] / (size[1] * canvas[0]) - 1) <= MAX_STRETCH


def _check_word(word: DetectedWord | None, spec: Spec) -> tuple[int, bool, list[Check]]:
    """Letters that are off, whether length and colour are right, and the checks."""
    if word is None:
        missing = [f'no word instead of "{spec.word}"']
        checks = [Check(_WORD_COLOUR, 0.0, []), Check(_WORD_WHOLE, 0.0, []), Check(_WORD_TEXT, 0.0, missing)]
        return len(spec.word), False, checks
    letters_off, longest = edit_distance(word.text, spec.word), max(len(spec.word), len(word.text), 1)
    coloured, reasons = word.colour == spec.word_colour, []
    if letters_off:
        letters = f"letter{'s' * (letters_off > 1)}"
        reasons.append(f'"{word.text}" instead of "{spec.word}", {letters_off} {letters} off')
    if not coloured:
        reasons.append(f"the word is {word.colour or 'an unclear colour'}, not {spec.word_colour}")
    if word.cut:
        reasons.append("the word is cut off at the edge")
    checks = [
        Check(_WORD_COLOUR, float(coloured), []),
        Check(_WORD_WHOLE, float(not word.cut), []),
        Check(_WORD_TEXT, 1 - letters_off / longest, reasons),
    ]
    return letters_off, coloured and len(word.text) == len(spec.word), checks


def _credit(*checks: Check) -> float:
    """The weighted mean, so that every fault that is mended raises it."""
    return _weighted_mean([(check.weight, check.credit) for check in checks])


def _weighted_mean(parts: Sequence[tuple[float, float]]) -> float:
    """Mean of (weight, value) pairs."""
    return sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)


# ---- one object


def _object_credit(expected: Expected, obj: Detected | None) -> float:
    """0 to 1: the share of what is expected that the object has. A wrong shape earns half of its similarity."""
    if obj is None:
        return 0.0
    shape = 1.0 if obj.shape == expected.shape else 0.5 * obj.similarity.get(expected.shape, 0.0)
    parts = [(2.0, shape), (1.0, float(not obj.cut))]
    if expected.colour:
        parts.append((2.0, float(obj.colour == expected.colour)))
    if expected.size:
        parts.append((1.0, float(_size_class(obj) == expected.size)))
    if expected.position:
        parts.append((1.0, float(_is_in_position(expected, obj))))
    if expected.texture:
        parts.append((1.0, float(obj.texture == expected.texture)))
    return _weighted_mean(parts)


def _object_reasons(expected: Expected, obj: Detected) -> list[str]:
    reasons = []
    if obj.shape != expected.shape:
        found = with_article(obj.shape) if obj.shape else "an unclear shape"
        reasons.append(f"{found} instead of {expected}")
    if expected.colour and obj.colour != expected.colour:
        reasons.append(f"{expected} is {obj.colour or 'an unclear colour'}")
    if expected.texture and obj.texture != expected.texture:
        reasons.append(f"{expected} is {_surface(obj.texture)}")
    if expected.size and _size_class(obj) != expected.size:
        reasons.append(f"{expected} is {_size_class(obj)} (radius {obj.radius:.0f} of {UNITS})")
    if not _is_in_position(expected, obj):
        x, y = expected.position
        reasons.append(f"{expected} is not at its place ({x:.0f}, {y:.0f})")
    if obj.cut:
        reasons.append(f"{expected} is cut off at the edge")
    return reasons


def _surface(texture: str | None) -> str:
    return ADJECTIVES.get(texture, "plain") if texture else "of an unclear texture"


def _size_class(obj: Detected) -> str:
    return "small" if obj.radius < SIZE_BORDER else "large"


def _is_in_position(expected: Expected, obj: Detected) -> bool:
    if expected.position is None:
        return True
    x, y = expected.position
    return max(abs(obj.x - x), abs(obj.y - y)) <= POSITION_TOLERANCE


def _is_related(assigned: Sequence[Detected | None], spec: Spec) -> bool:
    if spec.relation is None:
        return True
    first, relation, second = spec.relation
    a, b = assigned[first], assigned[second]
    return a is not None and b is not None and relation_holds(relation, a, b)


def relation_holds(relation: str, a: Detected, b: Detected) -> bool:
    """Whether a is farther along the relation's axis than aside, and farther than the margin."""
    along, across = relation_offsets(relation, b.x - a.x, b.y - a.y)
    return along > MARGIN and abs(across) <= MAX_SIDEWAYS * along


def edit_distance(a: str, b: str) -> int:
    """Letters to insert, delete or change."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        row, above = [i], row
        for j, other in enumerate(b, 1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (letter != other)))
    return row[-1]
