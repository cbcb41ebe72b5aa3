"""Edits: a scene, an instruction, the exact scene it must become, and the pixels that may change.

No image of one split, before or after the edit, occurs in the other split. Instructions do not name textures: only
the reference tells them.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation

from .captions import RELATION_WORDS, noun, with_article
from .keyed_random import KeyedRandom
from .rasterize import DEFAULT_SIDE, footprint, size_of
from .shapes import SHAPES
from .spec import Expected, Spec, box_centre
from .textures import SOLID
from .world import (
    BACKGROUNDS,
    EDIT,
    PALETTE,
    RELATIONS,
    SPLITS,
    SQUARE,
    Scene,
    World,
    check_choice,
    clearly_related,
    has_gap,
    is_inside,
    is_visible,
    pick_radius,
    place_object,
    sample_scene,
    split_of,
    visible_colours,
)

EDIT_KINDS = ("recolour", "remove", "replace", "background", "add", "keep")
COMPOSE = "compose"  # two references become one image; of the second edition
PLAIN_SHARE = 0.4  # of instructions in a plain wording, when any wording is allowed

# For each kind the plain wordings, then the others. {it} has no article, {new} has one.
WORDINGS = {
    "recolour": (
        ("change the {it} to {colour}", "make the {it} {colour}"),
        (
            "turn the {it} {colour}",
            "paint the {it} {colour}",
            "recolour the {it} to {colour}",
            "change the colour of the {it} to {colour}",
            "the {it} should be {colour}",
        ),
    ),
    "remove": (
        ("remove the {it}",),
        ("delete the {it}", "take away the {it}", "erase the {it}", "take the {it} out", "get rid of the {it}"),
    ),
    "replace": (
        ("replace the {it} with {new}",),
        (
            "turn the {it} into {new}",
            "change the {it} into {new}",
            "swap the {it} for {new}",
            "make the {it} {new}",
            "put {new} in place of the {it}",
        ),
    ),
    "background": (
        ("make the background {colour}", "change the background to {colour}"),
        (
            "set the background to {colour}",
            "turn the background {colour}",
            "paint the background {colour}",
            "put it on {a_colour} background",
            "use {a_colour} background",
        ),
    ),
    "add": (
        ("add {new}{where}",),
        (
            "draw {new}{where}",
            "put {new}{where}",
            "also draw {new}{where}",
            "insert {new}{where}",
            "add another object: {new}{where}",
        ),
    ),
    "keep": (
        ("Keep the image unchanged.",),
        (
            "keep the image unchanged",
            "keep the picture as it is",
            "do not change anything",
            "leave everything as it is",
            "change nothing",
        ),
    ),
}
COMPOSE_WORDINGS = (
    (
        "the {first} of image 1 and the {second} of image 2 on {a_colour} background",
        "put the {first} of image 1 and the {second} of image 2 on {a_colour} background",
    ),
    (
        "combine the {first} of image 1 with the {second} of image 2 on {a_colour} background",
        "the {first} from image 1 together with the {second} from image 2 on {a_colour} background",
        "the {second} of image 2 and the {first} of image 1 on {a_colour} background",
        "on {a_colour} background, the {first} of image 1 and the {second} of image 2",
    ),
)


@dataclass(frozen=True)
class Edit:
    kind: str
    source: Scene
    target: Scene  # unchanged objects as in the source and in its order; an added one comes last
    index: int | None = None  # of the changed object in source.objects
    relation: str | None = None  # of the added object to source.objects[reference]; None: it may be anywhere
    reference: int | None = None
    second: Scene | None = None  # image 2 of a composition, which takes one object of it
    second_index: int | None = None  # of that object in second.objects; `index` is that in source.objects

    @property
    def sources(self) -> tuple[Scene, ...]:
        """What the references show, in their order."""
        return (self.source,) if self.second is None else (self.source, self.second)


def edit_kinds(world: World) -> tuple[str, ...]:
    """Compositions are made where words stand in patches: in the second edition."""
    return (*EDIT_KINDS, COMPOSE) if world.lettered else EDIT_KINDS


def make_edit(seed: int, split: str, index: int, world: World | None = None, kind: str | None = None) -> Edit:
    """The edit that the arguments decide. Kinds are equally common unless `kind` names one."""
    world = world or World()
    check_choice("split", split, SPLITS)
    rng = KeyedRandom("edit", seed, split, index, kind)
    random_kind = rng.choice(edit_kinds(world))
    kind = kind or random_kind
    check_choice("kind of edit", kind, (*EDIT_KINDS, COMPOSE))
    while True:
        source = sample_scene(rng, EDIT, world)
        if source is None or split_of(source) != split:
            continue
        edit = _compose(rng, source, split, world) if kind == COMPOSE else _change(rng, kind, source, world)
        if edit is not None and split_of(edit.target) == split:
            return edit


def _compose(rng: KeyedRandom, first: Scene, split: str, world: World) -> Edit | None:
    """An object of each image, where it is there, on a solid background that the instruction names."""
    second = sample_scene(rng, EDIT, world)
    while second is None or split_of(second) != split or second.canvas != first.canvas:
        second = sample_scene(rng, EDIT, world)
    for _ in range(20):
        indices = rng.below(len(first.objects)), rng.below(len(second.objects))
        objects = first.objects[indices[0]], second.objects[indices[1]]
        target = Scene(EDIT, objects, rng.choice(tuple(PALETTE)), canvas=first.canvas)
        shown = has_gap(*objects) and all(is_visible(obj.colour, target.background, world) for obj in objects)
        if shown and split_of(target) == split:
            return Edit(COMPOSE, first, target, indices[0], second=second, second_index=indices[1])
    return None


def _change(rng: KeyedRandom, kind: str, source: Scene, world: World) -> Edit | None:
    """The edit of this kind, or None if the scene does not allow it."""
    objects = source.objects
    if kind == "keep":
        return Edit(kind, source, source)
    if kind == "background":
        backgrounds = [background for background in BACKGROUNDS if background != source.background]
        backgrounds = [
            background
            for background in backgrounds
            if all(is_visible(obj.colour, background, world) for obj in objects)
        ]
        return Edit(kind, source, replace(source, background=rng.choice(backgrounds), texture=SOLID))
    taken = {obj.colour for obj in objects}
    colours = [colour for colour in visible_colours(source.background, world) if colour not in taken]
    if kind == "add":
        return _add(rng, source, colours, world)
    index = rng.below(len(objects))
    old, others = objects[index], objects[:index] + objects[index + 1 :]
    if kind == "remove":
        return Edit(kind, source, replace(source, objects=others), index) if others else None
    if kind == "recolour":
        new = replace(old, colour=rng.choice(colours))
    else:
        new = replace(old, shape=rng.choice([shape for shape in SHAPES if shape != old.shape]))
        if not is_inside(new, source.canvas) or not all(has_gap(new, other) for other in others):
            return None
    return Edit(kind, source, replace(source, objects=objects[:index] + (new,) + objects[index + 1 :]), index)


def _add(rng: KeyedRandom, source: Scene, colours, world: World) -> Edit | None:
    objects = source.objects
    radius = pick_radius(rng, len(objects) + 1, world, source.canvas)
    new = place_object(rng, rng.choice(SHAPES), rng.choice(colours), radius, world, source.canvas)
    if not all(has_gap(new, obj) for obj in objects):
        return None
    relations = [(word, k) for word in RELATIONS for k in range(len(objects)) if clearly_related(word, new, objects[k])]
    relation, reference = rng.choice(relations) if relations and rng.chance(0.7) else (None, None)
    return Edit("add", source, replace(source, objects=(*objects, new)), None, relation, reference)


def instruction(edit: Edit, seed: int | None = None, plain: bool = False) -> str:
    """An instruction: the shortest without a seed, else a random one, with `plain` one of the plain wordings."""
    if seed is None:
        return next(iter(instructions(edit)))
    rng = KeyedRandom("instruction", seed)
    first, more = _wordings(edit)
    plain = plain or rng.chance(PLAIN_SHARE)
    wording = rng.choice(first if plain else first + more)
    return _fill(
        wording,
        edit,
        rng.choice(_changed_object_names(edit)),
        rng.choice(_location_phrases(edit)[: 1 if plain else None]),
        rng.choice(_object_names(edit.second, edit.second_index)) if edit.second else "",
    )


def instructions(edit: Edit) -> dict[str, None]:
    """Every instruction for the edit, once each, in a fixed order."""
    first, more = _wordings(edit)
    return {
        _fill(wording, edit, it, where, other): None
        for wording in first + more
        for where in _location_phrases(edit)
        for it in _changed_object_names(edit)
        for other in (_object_names(edit.second, edit.second_index) if edit.second else [""])
    }


def _wordings(edit: Edit) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return COMPOSE_WORDINGS if edit.kind == COMPOSE else WORDINGS[edit.kind]


def _fill(wording: str, edit: Edit, it: str, where: str, other: str = "") -> str:
    """`other` is the object of image 2."""
    new, colour = "", edit.target.background
    if edit.kind == "add":
        new = with_article(noun(edit.target.objects[-1], True))
    elif edit.kind in ("recolour", "replace"):
        changed = edit.target.objects[edit.index]
        new, colour = with_article(changed.shape), changed.colour
    return wording.format(
        it=it, new=new, colour=colour, a_colour=with_article(colour), where=where, first=it, second=other
    )


def _changed_object_names(edit: Edit) -> list[str]:
    """Names of the changed object that fit no other object."""
    return [""] if edit.index is None else _object_names(edit.source, edit.index)


def _object_names(scene: Scene, index: int) -> list[str]:
    obj = scene.objects[index]
    is_only_one = [other.shape for other in scene.objects].count(obj.shape) == 1
    return [obj.shape] * is_only_one + [noun(obj, True)]


def _location_phrases(edit: Edit) -> list[str]:
    if edit.relation is None:
        return [""]
    names = _object_names(edit.source, edit.reference)
    return [f" {words} the {name}" for words in RELATION_WORDS[edit.relation] for name in names]


def spec_after(edit: Edit) -> Spec:
    """What the edited image must show: the change, and every other object as and where it was."""
    objects = [Expected(obj.shape, obj.colour, None, box_centre(obj)) for obj in edit.target.objects]
    relation = None
    if edit.kind == "add":  # the instruction does not tell its position, or only by a relation
        objects[-1] = replace(objects[-1], position=None)
        relation = (len(objects) - 1, edit.relation, edit.reference) if edit.relation else None
    canvas = edit.target.canvas if edit.target.canvas != SQUARE else None
    return Spec(tuple(objects), edit.target.background, relation, canvas=canvas)


def may_change(edit: Edit, side: int = DEFAULT_SIDE) -> np.ndarray:
    """(height, width) bool, True where pixels may change: the object with its soft edge, 1/64 of a square's side.

    Elsewhere the images before and after the edit are equal bit for bit.
    """
    canvas = edit.target.canvas
    if edit.kind == "keep":
        return np.zeros(size_of(canvas, side), bool)
    if edit.kind in ("background", COMPOSE):
        kept = [footprint(obj, side, canvas) == 1 for obj in edit.target.objects]
        changed = ~np.logical_or.reduce(kept)
    else:
        objects = set(edit.source.objects) ^ set(edit.target.objects)
        changed = np.logical_or.reduce([footprint(obj, side, canvas) > 0 for obj in objects])
    return binary_dilation(changed, np.ones((3, 3), bool), iterations=max(1, round(side / 64)))
