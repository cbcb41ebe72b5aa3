"""The tiny world: scenes of one to four shapes, or of a short word, on a background.

A scene follows from its seed, and the training and held-back splits share no scene. Lengths are in units, 128 to the
side of a square image of any size, so a scene and its split are the same at 64 px and at 128 px.

The first edition of the world is plain and square. In the second there are textures, images of other shapes, and words
whose letters stand in a patch each.
"""

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property

from ...errors import Blip3oError
from .font import CHARACTERS, HEIGHT, PITCH, WIDTH
from .keyed_random import KeyedRandom
from .shapes import BOXES, SHAPES
from .textures import SOLID, Texture, any_texture, displacement, first_of_its_kind
from .words import LETTERS, MORE_WORDS, WORDS

UNITS = 128
SQUARE = (UNITS, UNITS)
CANVASES = {"wide": (192, 96), "tall": (96, 192), "landscape": (144, 96)}  # units; 2:1, 1:2 and 3:2
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
# Few, because each is many codes
_OBLONG_RADII: dict[int | str, tuple[int, ...]] = {1: (16, 20), 2: (16, 20), 3: (16,), 4: (16,)}
_SNAPPED_RADII = {1: (16, 20, 24, 28), 2: (16, 20, 24), 3: (16, 20), 4: (16,), "small": (16,), "large": (28,)}
_CELL, _SNAPPED_CELL = (3.6, 5.0), 4.0  # side of a font pixel
PATCH = 16  # units; in the second edition every letter stands in a patch of the 8 x 8 codes
LETTER_CELL, LETTER_PITCH = 2.0, 8  # units of a font pixel there, and font pixels from letter to letter
LETTER_COUNTS = (2, 6)
TEXTURED_PARTS = 0.6  # of the objects and grounds of a textured image
WITH_OBJECT = 0.4  # share of words of the second edition that stand beside an object


@dataclass(frozen=True)
class SceneObject:
    shape: str
    colour: str
    x: float  # centre
    y: float
    radius: float
    texture: Texture = SOLID

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
    pitch: int = PITCH  # font pixels from one letter to the next

    @property
    def box(self) -> tuple[float, float, float, float]:
        width = self.pitch * (len(self.text) - 1) + WIDTH
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
    texture: Texture = SOLID  # of the background
    textures_named: bool = False  # those that are not solid
    canvas: tuple[int, int] = SQUARE  # width and height in units


@dataclass(frozen=True)
class World:
    """Which scenes occur, and how often."""

    snapped: bool = True  # centres on a grid and few radii: trains in about half the time of a continuous world
    low_contrast: bool = True  # False excludes the pairs in LOW_CONTRAST, either way round
    coloured: float = 0.2  # share of images on a coloured background; 0.4 suits training
    weights: tuple[tuple[str, float], ...] = field(default=tuple((name, 1.0) for name in CATEGORIES))
    textured: float = 0.0  # share of images with textures; half of their captions name them
    oblong: float = 0.0  # share of images that are not square
    lettered: bool = False  # words of letters in a patch each, sometimes beside an object; else of free characters

    def __post_init__(self):
        for name, what in (
            ("coloured", "on a coloured background"),
            ("textured", "with textures"),
            ("oblong", "that are not square"),
        ):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise Blip3oError(f"{name} is {share}. It is the share of images {what}: give 0 to 1.")
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

    def radii(self, kind: int | str, canvas: tuple[int, int] = SQUARE) -> tuple[float, ...]:
        if not self.snapped:
            return _RADII[kind]
        return (_SNAPPED_RADII if canvas == SQUARE else _OBLONG_RADII)[kind]

    @property
    def categories(self) -> tuple[str, ...]:
        """Those that tables have a row for."""
        return (*CATEGORIES, TEXT) if self.lettered else CATEGORIES


def check_choice(what: str, value: str, options) -> None:
    if value not in options:
        raise Blip3oError(f"{what} {value!r} is unknown. Choose one of: {', '.join(options)}.")


# The world of the second edition
SECOND = World(
    low_contrast=False,
    weights=tuple((name, 1.0) for name in (*CATEGORIES, TEXT)),
    textured=0.6,
    oblong=0.25,
    lettered=True,
)


def scene_key(scene: Scene) -> str:
    """The image as text, with positions rounded to 8 units and radii to 4, so that near-copies share a key.

    Captions and textures are not part of it: the splits share no image, whatever its caption and its surfaces.
    """
    objects = sorted(
        f"{t.shape} {t.colour} {t.x // GRID:.0f} {t.y // GRID:.0f} {t.radius // 4:.0f}" for t in scene.objects
    )
    word = scene.word
    text = f"{word.text} {word.colour} {word.left // GRID:.0f} {word.top // GRID:.0f}" if word else ""
    canvas = [] if scene.canvas == SQUARE else [f"{scene.canvas[0]}x{scene.canvas[1]}"]
    return "|".join([scene.background, text, *objects, *canvas])


def split_of(scene: Scene) -> str:
    """Of words with letters in patches the text alone decides: the splits share no such word."""
    lettered = scene.word is not None and scene.word.pitch == LETTER_PITCH
    key = f"word {scene.word.text}" if lettered else scene_key(scene)
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
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


def has_gap(a: SceneObject | Word, b: SceneObject | Word) -> bool:
    (left, top, right, bottom), (b_left, b_top, b_right, b_bottom) = a.box, b.box
    return b_left - right >= GAP or left - b_right >= GAP or b_top - bottom >= GAP or top - b_bottom >= GAP


def is_inside(item: SceneObject | Word, canvas: tuple[int, int] = SQUARE) -> bool:
    left, top, right, bottom = item.box
    width, height = canvas
    return min(left, top) >= MARGIN and right <= width - MARGIN and bottom <= height - MARGIN


def place_object(
    rng: KeyedRandom, shape: str, colour: str, radius: float, world: World, canvas: tuple[int, int] = SQUARE
) -> SceneObject:
    """An object at a random position, wholly inside the image."""
    left, top, right, bottom = (radius * reach for reach in BOXES[shape])
    width, height = canvas
    x = pick_coordinate(rng, MARGIN - left, width - MARGIN - right, world, spacing(width))
    y = pick_coordinate(rng, MARGIN - top, height - MARGIN - bottom, world, spacing(height))
    return SceneObject(shape, colour, x, y, radius)


def spacing(side: int) -> float:
    """Units between snapped centres: half a patch of the 8 x 8 codes."""
    return GRID * side / UNITS


def pick_coordinate(rng: KeyedRandom, low: float, high: float, world: World, grid: float = GRID) -> float:
    if not world.snapped:
        return rng.uniform(low, high)
    first, last = math.ceil(low / grid), math.floor(high / grid)
    return float(grid * (first + rng.below(last - first + 1)))


def pick_radius(rng: KeyedRandom, kind: int | str, world: World, canvas: tuple[int, int] = SQUARE) -> float:
    radii = world.radii(kind, canvas)
    return float(rng.choice(radii)) if world.snapped else rng.uniform(*radii)


def place_objects(
    rng: KeyedRandom,
    kinds,
    size: int | str,
    world: World,
    relation: str | None = None,
    canvas: tuple[int, int] = SQUARE,
) -> tuple[SceneObject, ...] | None:
    """One object per (shape, colour), with gaps between them and in the relation. None if no arrangement was found."""
    for _ in range(20):
        objects = []
        radii = [pick_radius(rng, size, world, canvas) for _ in kinds]
        for (shape, colour), radius in zip(kinds, radii, strict=True):
            for _ in range(12):
                obj = place_object(rng, shape, colour, radius, world, canvas)
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
    scene = _sample_plain_scene(rng, category, world)
    textured = scene is not None and world.textured and rng.chance(world.textured)
    return _with_textures(rng, scene) if textured else scene


def _sample_plain_scene(rng: KeyedRandom, category: str, world: World) -> Scene | None:
    share = world.coloured if category == EDIT else world.coloured_elsewhere()  # edits are not part of the mix
    coloured = category == "background" or rng.chance(share)
    background = rng.choice(tuple(BACKGROUNDS)) if coloured else DEFAULT_BACKGROUND
    colours = visible_colours(background, world)
    if category == TEXT:
        return (_lettered_scene if world.lettered else _word_scene)(rng, background, colours, world)
    scene = Scene(category, (), background)
    if world.oblong and category != "size" and rng.chance(world.oblong):
        scene = replace(scene, canvas=rng.choice(tuple(CANVASES.values())))
    count, size = 1, 1
    if category == "single_object":
        scene = replace(scene, colours_named=False)
    elif category == "size":
        size = rng.choice(("small", "large"))
        scene = replace(scene, size=size)
    elif category == "counting":
        count = size = 2 + rng.below(3)
        kinds = [(rng.choice(SHAPES), rng.choice(colours))] * count
        objects = place_objects(rng, kinds, size, world, None, scene.canvas)
        return replace(scene, objects=objects, colours_named=rng.chance(0.5)) if objects else None
    elif category == EDIT:
        count = size = 1 + rng.below(3)
    elif category != "colors":
        count = size = 1 + rng.below(2) if category == "background" else 2
        named = category == "color_attr" or category != "two_object" and rng.chance(0.7)
        relation = rng.choice(RELATIONS) if category == "position" else None
        scene = replace(scene, colours_named=named, relation=relation)
    kinds = _pick_kinds(rng, count, colours, scene.colours_named)
    objects = place_objects(rng, kinds, size, world, scene.relation, scene.canvas)
    return replace(scene, objects=objects) if objects else None


def _with_textures(rng: KeyedRandom, scene: Scene) -> Scene:
    """The scene with textures, on at least one surface where any can show. A word stands on solid ground."""
    ground = scene.word is None and displacement(PALETTE[scene.background]).any()
    while ground or scene.objects:
        texture = any_texture(rng) if ground and rng.chance(TEXTURED_PARTS) else SOLID
        chosen = [any_texture(rng) if rng.chance(TEXTURED_PARTS) else SOLID for _ in scene.objects]
        if scene.category == "counting":  # alike, or the caption would have to tell them apart
            chosen = chosen[:1] * len(chosen)
        if texture != SOLID or any(one != SOLID for one in chosen):
            objects = tuple(replace(obj, texture=one) for obj, one in zip(scene.objects, chosen, strict=True))
            scene = replace(scene, objects=objects, texture=texture)
            return with_named_textures(scene) if rng.chance(0.5) else scene
    return scene


def with_named_textures(scene: Scene) -> Scene:
    """The scene with a caption that names its textures, so that each is the first of its kind."""
    objects = tuple(replace(obj, texture=first_of_its_kind(obj.texture)) for obj in scene.objects)
    return replace(scene, objects=objects, texture=first_of_its_kind(scene.texture), textures_named=True)


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


def _lettered_scene(rng: KeyedRandom, background: str, colours, world: World) -> Scene | None:
    """A word of two to six letters, every letter in the middle of a patch, alone or beside an object."""
    if rng.chance(0.5):
        text = rng.choice(MORE_WORDS)
    else:
        shortest, longest = LETTER_COUNTS
        text = "".join(rng.choice(LETTERS) for _ in range(shortest + rng.below(longest - shortest + 1)))
    word = lettered_word(text, rng.choice(colours), 1 + rng.below(7 - len(text)), 1 + rng.below(6))
    if not rng.chance(WITH_OBJECT):
        return Scene(TEXT, (), background, word)
    obj = place_object(rng, rng.choice(SHAPES), rng.choice(colours), pick_radius(rng, 2, world), world)
    return Scene(TEXT, (obj,), background, word) if has_gap(obj, word) else None


def lettered_word(text: str, colour: str, column: int, row: int) -> Word:
    """The word whose first letter stands in the patch of this column and row."""
    aside = (PATCH - WIDTH * LETTER_CELL) / 2, (PATCH - HEIGHT * LETTER_CELL) / 2
    return Word(text, colour, column * PATCH + aside[0], row * PATCH + aside[1], LETTER_CELL, LETTER_PITCH)
