"""What a caption demands, what was seen, and whether the second is the first.

A picture is right when the named objects, and no others, are there whole, with shape, named colour, number, relation,
size class and background. This file knows nothing of pixels: it also says of a drawn scene whether it is right.
"""

from dataclasses import dataclass, field
from itertools import permutations

from .captions import a
from .world import DEFAULT_BACKGROUND, MARGIN, UNITS, Scene, SceneObject, relation_offsets

SIZE_BORDER = 20  # units of radius: small below, large from here on
PLACE_TOLERANCE = 8  # units from the centre of an object that must be at a place
SIDEWAYS = 1.0  # a relation holds up to this ratio of the other axis to its own; truth has 0.6
_GROUND, _NUMBER, _RELATION, _OBJECTS = 1.0, 1.5, 1.5, 4.0  # weights of the credit's parts
MOST = 6  # objects looked at: more are too many in any case


@dataclass(frozen=True)
class Expected:
    shape: str
    colour: str | None = None  # None: any, here and below
    size: str | None = None
    place: tuple[float, float] | None = None  # centre of the box


@dataclass(frozen=True)
class Spec:
    objects: tuple[Expected, ...] = ()
    background: str = DEFAULT_BACKGROUND
    relation: tuple[int, str, int] | None = None  # objects[0th] is 1st objects[2nd]
    word: str | None = None  # then there are no objects
    word_colour: str | None = None


@dataclass(frozen=True)
class Detected:
    shape: str | None  # None: like nothing, here and below
    colour: str | None
    x: float  # centre of the box
    y: float
    radius: float
    cut: bool = False  # by the frame
    likeness: dict[str, float] = field(default_factory=dict, compare=False)  # to each shape, 0 to 1


@dataclass(frozen=True)
class DetectedWord:
    text: str  # "?" where a character cannot be read
    colour: str | None
    cut: bool = False


@dataclass(frozen=True)
class Detection:
    background: str | None
    objects: tuple[Detected, ...] = ()
    word: DetectedWord | None = None


@dataclass(frozen=True)
class Verdict:
    strict: bool  # everything is right
    layout: bool  # blind to shape and size: number, named colours, places, background; of a word its length and colours
    credit: float  # 0 to 1, for reinforcement learning; 1 exactly when strict
    reasons: tuple[str, ...]  # what is wrong, in words; none exactly when strict
    detection: Detection
    letters_off: int | None = None  # edit distance of the word
    outside: float | None = None  # of an edit: mean absolute error, of 255, over pixels that must not change


def spec_of(scene: Scene) -> Spec:
    """What the scene's caption says, no more."""
    if scene.word:
        return Spec((), scene.background, None, scene.word.text, scene.word.colour)
    objects = [Expected(obj.shape, obj.colour if scene.colours_named else None) for obj in scene.objects]
    if scene.size:
        objects[0] = Expected(objects[0].shape, objects[0].colour, scene.size)
    return Spec(tuple(objects), scene.background, scene.relation and (0, scene.relation, 1))


def detection_of(scene: Scene) -> Detection:
    """What a perfect eye would see."""
    word = scene.word and DetectedWord(scene.word.text, scene.word.colour, _cut(scene.word.box))
    return Detection(scene.background, tuple(_seen(obj) for obj in scene.objects), word)


def _seen(obj: SceneObject) -> Detected:
    return Detected(obj.shape, obj.colour, *centre(obj), obj.radius, _cut(obj.box))


def centre(obj: SceneObject) -> tuple[float, float]:
    """Of its box: what an eye finds before it knows the shape."""
    left, top, right, bottom = obj.box
    return (left + right) / 2, (top + bottom) / 2


def _cut(box) -> bool:
    return min(box[:2]) <= 0 or max(box[2:]) >= UNITS


def compare(detection: Detection, spec: Spec) -> Verdict:
    return _compare_word(detection, spec) if spec.word is not None else _compare_objects(detection, spec)


def _compare_objects(detection: Detection, spec: Spec) -> Verdict:
    wanted = spec.objects
    seen = sorted(detection.objects, key=lambda obj: -obj.radius)[:MOST]
    slots = [*range(len(seen)), *[None] * max(len(wanted) - len(seen), 0)]
    fits = [{slot: 0.0 if slot is None else _fit(want, seen[slot]) for slot in slots} for want in wanted]

    def score(order) -> float:
        total = sum(fit[slot] for fit, slot in zip(fits, order, strict=True))
        return total / len(wanted) * _OBJECTS + _relation_holds(spec, seen, order) * _RELATION

    orders = list(permutations(slots, len(wanted)))  # of what was seen, to be what is wanted
    best = max(orders, key=score) if wanted else ()  # a wholly right order has the highest score there is
    numbers = len(detection.objects), len(wanted)
    reasons = []
    if numbers[0] != numbers[1]:
        reasons.append(f"{numbers[0] or 'no'} object{'s' * (numbers[0] != 1)} instead of {numbers[1]}")
    for want, slot in zip(wanted, best, strict=True):
        reasons += [f"{describe(want)} is missing"] if slot is None else _faults(want, seen[slot])
    holds = _relation_holds(spec, seen, best)
    if not holds:
        first, relation, second = spec.relation
        reasons.append(f"{describe(wanted[first])} is not {relation} {describe(wanted[second])}")
    ground = detection.background == spec.background
    if not ground:
        reasons.append(_background_fault(detection, spec))

    # credit: the mean of the parts there are, so that each mended fault raises it
    parts = [(_GROUND, float(ground)), (_NUMBER, min(numbers) / max(*numbers, 1) if any(numbers) else 1.0)]
    if wanted:
        parts.append((_OBJECTS, sum(fit[slot] for fit, slot in zip(fits, best, strict=True)) / len(wanted)))
    if spec.relation:
        parts.append((_RELATION, float(holds)))

    def placed(order) -> bool:
        pairs = ((want, seen[slot]) for want, slot in zip(wanted, order, strict=True))
        right = all(_near(want, obj) and want.colour in (None, obj.colour) for want, obj in pairs)
        return right and _relation_holds(spec, seen, order)

    layout = ground and numbers[0] == numbers[1] and any(map(placed, orders))
    return Verdict(not reasons, layout, _mean(parts), tuple(reasons), detection)


def _compare_word(detection: Detection, spec: Spec) -> Verdict:
    word, reasons = detection.word, []
    if word is None:
        off = len(spec.word)
        reasons.append(f'no word instead of "{spec.word}"')
    else:
        off = edit_distance(word.text, spec.word)
        if off:
            reasons.append(f'"{word.text}" instead of "{spec.word}", {off} letter{"s" * (off > 1)} off')
        if word.colour != spec.word_colour:
            reasons.append(f"the word is {word.colour or 'of no clear colour'}, not {spec.word_colour}")
        if word.cut:
            reasons.append("the word is cut off at the edge")
    ground = detection.background == spec.background
    if not ground:
        reasons.append(_background_fault(detection, spec))
    coloured = word is not None and word.colour == spec.word_colour
    longest = max(len(spec.word), len(word.text) if word else 0, 1)
    whole = word is not None and not word.cut
    parts = (_GROUND, float(ground)), (1.0, float(coloured)), (0.5, float(whole)), (_OBJECTS, 1 - off / longest)
    layout = ground and coloured and len(word.text) == len(spec.word)
    return Verdict(not reasons, layout, _mean(parts), tuple(reasons), detection, off)


def _mean(parts) -> float:
    """Of (weight, value): 1 only where all are, since the others are clearly less."""
    return sum(weight * part for weight, part in parts) / sum(weight for weight, _ in parts)


def _size(radius: float) -> str:
    return "small" if radius < SIZE_BORDER else "large"


def _near(want: Expected, seen: Detected) -> bool:
    return want.place is None or max(abs(seen.x - want.place[0]), abs(seen.y - want.place[1])) <= PLACE_TOLERANCE


def _fit(want: Expected, seen: Detected) -> float:
    """Share of what is wanted of one object; an unclear shape earns half its likeness."""
    shape = 1.0 if seen.shape == want.shape else 0.5 * seen.likeness.get(want.shape, 0.0)
    parts = [(2.0, shape), (1.0, float(not seen.cut))]
    if want.colour:
        parts.append((2.0, float(seen.colour == want.colour)))
    if want.size:
        parts.append((1.0, float(_size(seen.radius) == want.size)))
    if want.place:
        parts.append((1.0, float(_near(want, seen))))
    return _mean(parts)


def _faults(want: Expected, seen: Detected) -> list[str]:
    faults = []
    if seen.shape != want.shape:
        found = a(seen.shape) if seen.shape else "something of no clear shape"
        faults.append(f"{found} instead of {describe(want)}")
    if want.colour and seen.colour != want.colour:
        faults.append(f"{describe(want)} is {seen.colour or 'of no clear colour'}")
    if want.size and _size(seen.radius) != want.size:
        faults.append(f"{describe(want)} is {_size(seen.radius)} (radius {seen.radius:.0f} of {UNITS})")
    if not _near(want, seen):
        faults.append(f"{describe(want)} is not at its place ({want.place[0]:.0f}, {want.place[1]:.0f})")
    if seen.cut:
        faults.append(f"{describe(want)} is cut off at the edge")
    return faults


def _relation_holds(spec: Spec, seen, order) -> bool:
    if spec.relation is None:
        return True
    first, relation, second = spec.relation
    if order[first] is None or order[second] is None:
        return False
    return relation_holds(relation, seen[order[first]], seen[order[second]])


def relation_holds(relation: str, a: Detected, b: Detected) -> bool:
    """More along the axis than across it, and more than nothing."""
    along, across = relation_offsets(relation, b.x - a.x, b.y - a.y)
    return along > MARGIN and abs(across) <= SIDEWAYS * along


def _background_fault(detection: Detection, spec: Spec) -> str:
    return f"the background is {detection.background or 'of no clear colour'}, not {spec.background}"


def describe(want: Expected) -> str:
    return " ".join(["the", *(word for word in (want.size, want.colour, want.shape) if word)])


def edit_distance(a: str, b: str) -> int:
    """Letters to insert, delete or change."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        row, above = [i], row
        for j, other in enumerate(b, 1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (letter != other)))
    return row[-1]
