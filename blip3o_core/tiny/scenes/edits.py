"""Edits: a scene, an instruction, the exact scene it should become, and the pixels that may change.

No picture of one split's edits, before or after, is in the other split.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation

from .captions import RELATION_WORDS, a, name
from .rasterize import DEFAULT_SIDE, footprint
from .shapes import SHAPES
from .spec import Demand, Wanted, centre
from .world import (
    BACKGROUNDS,
    EDIT,
    RELATIONS,
    SPLITS,
    Dice,
    Scene,
    World,
    apart,
    check_choice,
    clearly,
    colours_on,
    is_inside,
    pick_radius,
    place,
    sample_scene,
    shows,
    split_of,
)

KINDS = ("recolour", "remove", "replace", "background", "add", "keep")
PLAIN_SHARE = 0.4  # of instructions in the first wordings, when others may be

# The plain wordings first, then more; {it} comes with its article dropped, {new} with one
_WORDINGS = {
    "recolour": (
        ("change the {it} to {colour}", "make the {it} {colour}"),
        ("turn the {it} {colour}", "paint the {it} {colour}", "recolour the {it} to {colour}",
         "change the colour of the {it} to {colour}", "the {it} should be {colour}"),
    ),
    "remove": (
        ("remove the {it}",),
        ("delete the {it}", "take away the {it}", "erase the {it}", "take the {it} out", "get rid of the {it}"),
    ),
    "replace": (
        ("replace the {it} with {new}",),
        ("turn the {it} into {new}", "change the {it} into {new}", "swap the {it} for {new}", "make the {it} {new}",
         "put {new} in place of the {it}"),
    ),
    "background": (
        ("make the background {colour}", "change the background to {colour}"),
        ("set the background to {colour}", "turn the background {colour}", "paint the background {colour}",
         "put it on {a_colour} background", "use {a_colour} background"),
    ),
    "add": (
        ("add {new}{where}",),
        ("draw {new}{where}", "put {new}{where}", "also draw {new}{where}", "insert {new}{where}",
         "add another object: {new}{where}"),
    ),
    "keep": (
        ("Keep the image unchanged.",),
        ("keep the image unchanged", "keep the picture as it is", "do not change anything", "leave everything as it is",
         "change nothing"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Edit:
    kind: str
    source: Scene
    target: Scene  # the objects that stay are the source's, in its order; an added one comes last
    index: int | None = None  # of the changed object in source.things
    relation: str | None = None  # of the added object to source.things[reference]; None: it may go anywhere
    reference: int | None = None


def make_edit(seed: int, split: str, index: int, world: World | None = None, kind: str | None = None) -> Edit:
    """The same arguments give the same edit. All kinds are equally common unless one is asked for."""
    world = world or World()
    check_choice("split", split, SPLITS)
    dice = Dice("edit", seed, split, index, kind)
    drawn = dice.choice(KINDS)
    kind = kind or drawn
    check_choice("kind of edit", kind, KINDS)
    while True:
        source = sample_scene(dice, EDIT, world)
        if source is None or split_of(source) != split:
            continue
        edit = _change(dice, kind, source, world)
        if edit is not None and split_of(edit.target) == split:
            return edit


def _change(dice: Dice, kind: str, source: Scene, world: World) -> Edit | None:
    """None where this scene does not allow it."""
    things = source.things
    if kind == "keep":
        return Edit(kind, source, source)
    if kind == "background":
        grounds = [ground for ground in BACKGROUNDS if ground != source.background]
        grounds = [ground for ground in grounds if all(shows(thing.colour, ground, world) for thing in things)]
        return Edit(kind, source, replace(source, background=dice.choice(grounds)))
    taken = {thing.colour for thing in things}
    colours = [colour for colour in colours_on(source.background, world) if colour not in taken]
    if kind == "add":
        return _add(dice, source, colours, world)
    index = dice.below(len(things))
    old, others = things[index], things[:index] + things[index + 1 :]
    if kind == "remove":
        return Edit(kind, source, replace(source, things=others), index) if others else None
    if kind == "recolour":
        new = replace(old, colour=dice.choice(colours))
    else:
        new = replace(old, shape=dice.choice([shape for shape in SHAPES if shape != old.shape]))
        if not is_inside(new) or not all(apart(new, other) for other in others):
            return None
    return Edit(kind, source, replace(source, things=things[:index] + (new,) + things[index + 1 :]), index)


def _add(dice: Dice, source: Scene, colours, world: World) -> Edit | None:
    things = source.things
    radius = pick_radius(dice, len(things) + 1, world)
    new = place(dice, dice.choice(SHAPES), dice.choice(colours), radius, world)
    if not all(apart(new, thing) for thing in things):
        return None
    places = [(word, k) for word in RELATIONS for k in range(len(things)) if clearly(word, new, things[k])]
    relation, reference = dice.choice(places) if places and dice.chance(0.7) else (None, None)
    return Edit("add", source, replace(source, things=(*things, new)), None, relation, reference)


def instruction(edit: Edit, seed: int | None = None, plain: bool = False) -> str:
    """One way to ask for it: the shortest plain one without a seed, else any, or with `plain` any plain one."""
    if seed is None:
        return next(iter(instructions(edit)))
    dice = Dice("instruction", seed)
    first, more = _WORDINGS[edit.kind]
    plain = plain or dice.chance(PLAIN_SHARE)
    wording = dice.choice(first if plain else first + more)
    return _fill(wording, edit, dice.choice(_names(edit)), dice.choice(_wheres(edit)[: 1 if plain else None]))


def instructions(edit: Edit) -> dict[str, None]:
    """Every way to ask for it, in a fixed order, each once."""
    first, more = _WORDINGS[edit.kind]
    return {
        _fill(wording, edit, it, where): None
        for wording in first + more
        for where in _wheres(edit)
        for it in _names(edit)
    }


def _fill(wording: str, edit: Edit, it: str, where: str) -> str:
    new, colour = "", edit.target.background
    if edit.kind == "add":
        new = a(name(edit.target.things[-1], True))
    elif edit.kind in ("recolour", "replace"):
        changed = edit.target.things[edit.index]
        new, colour = a(changed.shape), changed.colour
    return wording.format(it=it, new=new, colour=colour, a_colour=a(colour), where=where)


def _names(edit: Edit) -> list[str]:
    """What the changed object can be called so that no other is meant."""
    return [""] if edit.index is None else _calls(edit.source, edit.index)


def _calls(scene: Scene, index: int) -> list[str]:
    thing = scene.things[index]
    alone = [other.shape for other in scene.things].count(thing.shape) == 1
    return [thing.shape] * alone + [name(thing, True)]


def _wheres(edit: Edit) -> list[str]:
    if edit.relation is None:
        return [""]
    calls = _calls(edit.source, edit.reference)
    return [f" {words} the {call}" for words in RELATION_WORDS[edit.relation] for call in calls]


def demand_after(edit: Edit) -> Demand:
    """All of the target: what was changed, and every other object as and where it was."""
    things = [Wanted(thing.shape, thing.colour, None, centre(thing)) for thing in edit.target.things]
    relation = None
    if edit.kind == "add":  # its place was not told, or only by a relation
        things[-1] = replace(things[-1], place=None)
        relation = edit.relation and (len(things) - 1, edit.relation, edit.reference)
    return Demand(tuple(things), edit.target.background, relation)


def may_change(edit: Edit, side: int = DEFAULT_SIDE) -> np.ndarray:
    """(side, side) bool. Elsewhere both pictures are equal bit for bit; soft edges (1/64 of the side) are in it."""
    if edit.kind == "keep":
        return np.zeros((side, side), bool)
    if edit.kind == "background":
        kept = [footprint(thing, side) == 1 for thing in edit.source.things]
        changed = ~np.logical_or.reduce(kept)
    else:
        things = set(edit.source.things) ^ set(edit.target.things)
        changed = np.logical_or.reduce([footprint(thing, side) > 0 for thing in things])
    return binary_dilation(changed, np.ones((3, 3), bool), iterations=max(1, round(side / 64)))
