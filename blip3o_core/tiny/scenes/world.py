"""The tiny world: scenes of one to four shapes, or of a short word, on a plain background.

A scene follows from its seed, and the training and held-back splits share no scene. Lengths are in units, 128 to the
side of an image of any size, so a scene and its split are the same at 64 px and at 128 px.
"""

import hashlib
import math
import random
from dataclasses import dataclass, field, replace
from functools import cached_property

from ...errors import Blip3oError
from .font import CHARACTERS, HEIGHT, PITCH
from .shapes import BOXES, SHAPES

UNITS = 128
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 50),
    "green": (40, 160, 60),
    "cyan": (50, 205, 215),
    "blue": (40, 80, 220),
    "purple": (130, 50, 180),
    "pink": (250, 135, 195),
}
BACKGROUNDS = COLOURS | {"white": (250, 250, 250), "black": (18, 18, 18)}  # those that captions can name
DEFAULT_BACKGROUND = "grey"  # captions do not mention it
PALETTE = BACKGROUNDS | {DEFAULT_BACKGROUND: (205, 205, 205)}

CATEGORIES = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
    "background",
    "size",
)
TEXT = "text"  # the ninth category, left out of the mean over the other eight
EDIT = "edit"  # scenes that edits start from: one to three objects, all of them described
SPLITS = ("train", "held_back")
RELATIONS = ("left of", "right of", "above", "below")

GAP = 10  # between the boxes of two objects
MARGIN = 4  # to the edge of the image: two pixels at 64 px, so that blur does not reach the edge
GRID = 8  # spacing of snapped centres: half a patch of the 8 x 8 codes
HELD_BACK_EVERY = 8  # one scene in eight is held back
LOW_CONTRAST = (("purple", "blue"), ("pink", "yellow"), ("orange", "red"), ("orange", "yellow"))

_RADII = {1: (16, 30), 2: (15, 24), 3: (14, 19), 4: (14, 19), "small": (13, 16.5), "large": (24, 29)}
_SNAPPED_RADII = {1: (16, 20, 24, 28), 2: (16, 20, 24), 3: (16, 20), 4: (16,), "small": (16,), "large": (28,)}
_CELL, _SNAPPED_CELL = (3.6, 5.0), 4.0  # side of a font pixel
WORDS = tuple(
    "ART BED BEE BIG BOX BUS CAR CAT COW CUP DAY DOG EAR EGG EYE FISH FIVE FOX FUN GO GOLD HAT HI ICE JAM JOY KEY LAMP "
    "LEAF MAP MILK MOON NEW NO OK OWL PEN PIE QUIZ RAIN ROAD ROSE SEA SHIP SKY SNOW SUN TAXI TEA TOP TREE UP VAN WAVE "
    "WIND WOLF YES ZERO ZOO".split()
)


@dataclass(frozen=True)
class SceneObject:
    shape: str
    colour: str
    x: float  # centre
    y: float
    radius: float

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """left, top, right, bottom."""
        left, top, right, bottom = (self.radius * reach for reach in BOXES[self.shape])
        return self.x + left, self.y + top, self.x + right, self.y + bottom


@dataclass(frozen=True)
class Word:
    text: str
    colour: str
    left: float
    top: float
    cell: float  # side of a font pixel

    @property
    def box(self) -> tuple[float, float, float, float]:
        width = PITCH * len(self.text) - 1
        return self.left, self.top, self.left + width * self.cell, self.top + HEIGHT * self.cell


@dataclass(frozen=True)
class Scene:
    """What an image shows, and what its caption mentions. The background is mentioned unless it is the default."""

    category: str
    objects: tuple[SceneObject, ...]
    background: str = DEFAULT_BACKGROUND
    word: Word | None = None
    colours_named: bool = True
    relation: str | None = None  # objects[0] is, for example, "left of" objects[1]
    size: str | None = None  # "small" or "large", of objects[0]


@dataclass(frozen=True)
class World:
    """Which scenes occur, and how often."""

    snapped: bool = True  # centres on a grid and few radii: trains in about half the time of a continuous world
    low_contrast: bool = True  # False excludes the pairs in LOW_CONTRAST, either way round
    coloured: float = 0.2  # share of images on a coloured background; 0.4 suits training
    weights: tuple[tuple[str, float], ...] = field(default=tuple((name, 1.0) for name in CATEGORIES))

    def __post_init__(self):
        if not 0 <= self.coloured <= 1:
            raise Blip3oError(
                f"coloured is {self.coloured}. It is the share of images on a coloured background: give 0 to 1."
            )
        for name, weight in self.weights:
            check_choice("category", name, (*CATEGORIES, TEXT))
            if not (weight >= 0 and math.isfinite(weight)):
                raise Blip3oError(f"The weight of category {name} is {weight}. Give 0 or more.")
        if not sum(weight for _, weight in self.weights) > 0:
            raise Blip3oError(
                "All categories have weight 0, so no scene can be made. Give at least one of them a positive weight."
            )

    def coloured_elsewhere(self) -> float:
        """Chance of a coloured background in other categories than "background", so that `coloured` holds overall."""
        total = sum(weight for _, weight in self.weights)
        always = sum(weight for name, weight in self.weights if name == "background") / total
        return 0.0 if always == 1 else min(max((self.coloured - always) / (1 - always), 0.0), 1.0)

    def radii(self, kind: int | str) -> tuple[float, ...]:
        return (_SNAPPED_RADII if self.snapped else _RADII)[kind]


class KeyedRandom:
    """Random choices that follow from a key.

    Only `Random.random` is used, because Python promises that its numbers never change. The keys decide every scene:
    a changed key makes a different world.
    """

    def __init__(self, *key):
        self._random = random.Random("/".join(map(str, key))).random

    def chance(self, share: float) -> bool:
        return self._random() < share

    def below(self, n: int) -> int:
        return int(self._random() * n)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def choice(self, options):
        return options[self.below(len(options))]

    def sample(self, options, count: int) -> list:
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]

    def weighted(self, pairs):
        rest = self.uniform(0, sum(weight for _, weight in pairs))
        for value, weight in pairs:
            if (rest := rest - weight) < 0:
                return value
        return next(value for value, weight in reversed(pairs) if weight > 0)


def check_choice(what: str, value: str, options) -> None:
    if value not in options:
        raise Blip3oError(f"{what} {value!r} is unknown. Choose one of: {', '.join(options)}.")


def scene_key(scene: Scene) -> str:
    """The image as text, with positions rounded to 8 units and radii to 4, so that near-copies share a key.

    Captions are not part of it: the splits share no image, whatever its caption.
    """
    objects = sorted(
        f"{t.shape} {t.colour} {t.x // GRID:.0f} {t.y // GRID:.0f} {t.radius // 4:.0f}" for t in scene.objects
    )
    word = scene.word
    text = f"{word.text} {word.colour} {word.left // GRID:.0f} {word.top // GRID:.0f}" if word else ""
    return "|".join([scene.background, text, *objects])


def split_of(scene: Scene) -> str:
    digest = hashlib.blake2b(scene_key(scene).encode(), digest_size=8).digest()
    return SPLITS[int.from_bytes(digest, "big") % HELD_BACK_EVERY == 0]


def make_scene(
    seed: int | str, split: str, index: int, world: World | None = None, category: str | None = None
) -> Scene:
    """The scene that the arguments decide, on any machine and in any order of calls."""
    world = world or World()
    check_choice("split", split, SPLITS)
    rng = KeyedRandom("scene", seed, split, index, category)
    random_category = rng.weighted(world.weights)
    category = category or random_category
    check_choice("category", category, (*CATEGORIES, TEXT, EDIT))
    while True:  # one scene in HELD_BACK_EVERY is of the rarer split
        scene = sample_scene(rng, category, world)
        if scene is not None and split_of(scene) == split:
            return scene


def visible_colours(background: str, world: World) -> list[str]:
    """Colours that can be seen on a background."""
    return [colour for colour in COLOURS if is_visible(colour, background, world)]


def is_visible(colour: str, background: str, world: World) -> bool:
    if colour == background or (colour, background) == ("orange", "yellow"):
        return False
    return world.low_contrast or not {(colour, background), (background, colour)} & set(LOW_CONTRAST)


def has_gap(a: SceneObject, b: SceneObject) -> bool:
    (left, top, right, bottom), (b_left, b_top, b_right, b_bottom) = a.box, b.box
    return b_left - right >= GAP or left - b_right >= GAP or b_top - bottom >= GAP or top - b_bottom >= GAP


def is_inside(item: SceneObject | Word) -> bool:
    left, top, right, bottom = item.box
    return min(left, top) >= MARGIN and max(right, bottom) <= UNITS - MARGIN


def place_object(rng: KeyedRandom, shape: str, colour: str, radius: float, world: World) -> SceneObject:
    """An object at a random position, wholly inside the image."""
    left, top, right, bottom = (radius * reach for reach in BOXES[shape])
    x = pick_coordinate(rng, MARGIN - left, UNITS - MARGIN - right, world)
    y = pick_coordinate(rng, MARGIN - top, UNITS - MARGIN - bottom, world)
    return SceneObject(shape, colour, x, y, radius)


def pick_coordinate(rng: KeyedRandom, low: float, high: float, world: World) -> float:
    if not world.snapped:
        return rng.uniform(low, high)
    first, last = math.ceil(low / GRID), math.floor(high / GRID)
    return float(GRID * (first + rng.below(last - first + 1)))


def pick_radius(rng: KeyedRandom, kind: int | str, world: World) -> float:
    radii = world.radii(kind)
    return float(rng.choice(radii)) if world.snapped else rng.uniform(*radii)


def place_objects(
    rng: KeyedRandom, kinds, size: int | str, world: World, relation: str | None = None
) -> tuple[SceneObject, ...] | None:
    """One object per (shape, colour), with gaps between them and in the relation. None if no arrangement was found."""
    for _ in range(20):
        objects = []
        radii = [pick_radius(rng, size, world) for _ in kinds]
        for (shape, colour), radius in zip(kinds, radii, strict=True):
            for _ in range(12):
                obj = place_object(rng, shape, colour, radius, world)
                if all(has_gap(obj, other) for other in objects):
                    objects.append(obj)
                    break
            else:
                break
        if len(objects) == len(kinds) and (relation is None or clearly_related(relation, *objects)):
            return tuple(objects)
    return None


def clearly_related(relation: str, a: SceneObject, b: SceneObject) -> bool:
    """Whether a is clearly in the relation to b: farther along its axis than both radii, aside at most 0.6 of that."""
    along, across = relation_offsets(relation, b.x - a.x, b.y - a.y)
    return along > a.radius + b.radius and abs(across) <= 0.6 * along


def relation_offsets(relation: str, x: float, y: float) -> tuple[float, float]:
    """The vector (x, y) from a to b -> how far a is along the relation's axis, and how far aside."""
    along, across = (y, x) if relation in ("above", "below") else (x, y)
    return (-along if relation in ("right of", "below") else along), across


def sample_scene(rng: KeyedRandom, category: str, world: World) -> Scene | None:
    share = world.coloured if category == EDIT else world.coloured_elsewhere()  # edits are not part of the mix
    coloured = category == "background" or rng.chance(share)
    background = rng.choice(tuple(BACKGROUNDS)) if coloured else DEFAULT_BACKGROUND
    colours = visible_colours(background, world)
    if category == TEXT:
        return _word_scene(rng, background, colours, world)
    scene = Scene(category, (), background)
    count, size = 1, 1
    if category == "single_object":
        scene = replace(scene, colours_named=False)
    elif category == "size":
        size = rng.choice(("small", "large"))
        scene = replace(scene, size=size)
    elif category == "counting":
        count = size = 2 + rng.below(3)
        kinds = [(rng.choice(SHAPES), rng.choice(colours))] * count
        objects = place_objects(rng, kinds, size, world)
        return replace(scene, objects=objects, colours_named=rng.chance(0.5)) if objects else None
    elif category == EDIT:
        count = size = 1 + rng.below(3)
    elif category != "colors":
        count = size = 1 + rng.below(2) if category == "background" else 2
        named = category == "color_attr" or category != "two_object" and rng.chance(0.7)
        relation = rng.choice(RELATIONS) if category == "position" else None
        scene = replace(scene, colours_named=named, relation=relation)
    objects = place_objects(rng, _pick_kinds(rng, count, colours, scene.colours_named), size, world, scene.relation)
    return replace(scene, objects=objects) if objects else None


def _pick_kinds(rng: KeyedRandom, count: int, colours, colours_named: bool) -> list[tuple[str, str]]:
    """(shape, colour) pairs that the caption tells apart: by colour if it names colours, else by shape."""
    if colours_named:
        return [(rng.choice(SHAPES), colour) for colour in rng.sample(colours, count)]
    return [(shape, rng.choice(colours)) for shape in rng.sample(SHAPES, count)]


def _word_scene(rng: KeyedRandom, background: str, colours, world: World) -> Scene:
    """Half of the texts are words and half random characters, so that every glyph is common."""
    if rng.chance(0.5):
        text = rng.choice(WORDS)
    else:
        text = "".join(rng.choice(CHARACTERS) for _ in range(1 + rng.below(4)))
    cell = _SNAPPED_CELL if world.snapped else rng.uniform(*_CELL)
    _, _, width, height = Word(text, "", 0, 0, cell).box
    left = pick_coordinate(rng, MARGIN, UNITS - MARGIN - width, world)
    top = pick_coordinate(rng, MARGIN, UNITS - MARGIN - height, world)
    return Scene(TEXT, (), background, Word(text, rng.choice(colours), left, top, cell))
