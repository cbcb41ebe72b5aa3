"""Edits: a scene, an instruction, the exact scene it must become, and the pixels that may change.

No image of one split, before or after the edit, occurs in the other split.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation

from .captions import RELATION_WORDS, noun, with_article
from .rasterize import DEFAULT_SIDE, footprint
from .shapes import SHAPES
from .spec import Expected, Spec, box_centre
from .world import (
    BACKGROUNDS,
    EDIT,
    RELATIONS,
    SPLITS,
    KeyedRandom,
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


@dataclass(frozen=True)
class Edit:
    kind: str
    source: Scene
    target: Scene  # unchanged objects as in the source and in its order; an added one comes last
    index: int | None = None  # of the changed object in source.objects
    relation: str | None = None  # of the added object to source.objects[reference]; None: it may be anywhere
    reference: int | None = None


def make_edit(seed: int, split: str, index: int, world: World | None = None, kind: str | None = None) -> Edit:
    """The edit that the arguments decide. Kinds are equally common unless `kind` names one."""
    world = world or World()
    check_choice("split", split, SPLITS)
    rng = KeyedRandom("edit", seed, split, index, kind)
    random_kind = rng.choice(EDIT_KINDS)
    kind = kind or random_kind
    check_choice("kind of edit", kind, EDIT_KINDS)
    while True:
        source = sample_scene(rng, EDIT, world)
        if source is None or split_of(source) != split:
            continue
        edit = _change(rng, kind, source, world)
        if edit is not None and split_of(edit.target) == split:
            return edit


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
        return Edit(kind, source, replace(source, background=rng.choice(backgrounds)))
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
        if not is_inside(new) or not all(has_gap(new, other) for other in others):
            return None
    return Edit(kind, source, replace(source, objects=objects[:index] + (new,) + objects[index + 1 :]), index)


def _add(rng: KeyedRandom, source: Scene, colours, world: World) -> Edit | None:
    objects = source.objects
    radius = pick_radius(rng, len(objects) + 1, world)
    new = place_object(rng, rng.choice(SHAPES), rng.choice(colours), radius, world)
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
    first, more = WORDINGS[edit.kind]
    plain = plain or rng.chance(PLAIN_SHARE)
    wording = rng.choice(first if plain else first + more)
    return _fill(
        wording,
        edit,
        rng.choice(_changed_object_names(edit)),
        rng.choice(_location_phrases(edit)[: 1 if plain else None]),
    )


def instructions(edit: Edit) -> dict[str, None]:
    """Every instruction for the edit, once each, in a fixed order."""
    first, more = WORDINGS[edit.kind]
    return {
        _fill(wording, edit, it, where): None
        for wording in first + more
        for where in _location_phrases(edit)
        for it in _changed_object_names(edit)
    }


def _fill(wording: str, edit: Edit, it: str, where: str) -> str:
    new, colour = "", edit.target.background
    if edit.kind == "add":
        new = with_article(noun(edit.target.objects[-1], True))
    elif edit.kind in ("recolour", "replace"):
        changed = edit.target.objects[edit.index]
        new, colour = with_article(changed.shape), changed.colour
    return wording.format(it=it, new=new, colour=colour, a_colour=with_article(colour), where=where)


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
    return Spec(tuple(objects), edit.target.background, relation)


def may_change(edit: Edit, side: int = DEFAULT_SIDE) -> np.ndarray:
    """(side, side) bool, True where pixels may change: the object with its soft edge, 1/64 of the side.

    Elsewhere the images before and after the edit are equal bit for bit.
    """
    if edit.kind == "keep":
        return np.zeros((side, side), bool)
    if edit.kind == "background":
        kept = [footprint(obj, side) == 1 for obj in edit.source.objects]
        changed = ~np.logical_or.reduce(kept)
    else:
        objects = set(edit.source.objects) ^ set(edit.target.objects)
        changed = np.logical_or.reduce([footprint(obj, side) > 0 for obj in objects])
    return binary_dilation(changed, np.ones((3, 3), bool), iterations=max(1, round(side / 64)))
