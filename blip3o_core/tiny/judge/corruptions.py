"""Wrong pictures made on purpose: a scene with one fault that its caption's demand rules out.

Every fault returns a changed scene, or None where it does not apply; `plant` returns only scenes that really violate
the demand, by exact comparison of the scene itself.
"""

from dataclasses import replace

from ..scenes.font import CHARACTERS
from ..scenes.shapes import BOXES, SHAPES
from ..scenes.spec import SIZE_BORDER, compare, demand_of, sight_of
from ..scenes.world import PALETTE, UNITS, Dice, Scene, Thing, World, apart, colours_on, is_inside, place, shows

_WORLD = World()


def plant(scene: Scene, fault: str, seed: int) -> Scene | None:
    """The scene with the fault; None where the caption does not rule it out, or it finds no room."""
    dice = Dice("fault", fault, seed)
    for _ in range(20):
        wrong = FAULTS[fault](dice, scene)
        if wrong is not None and not compare(sight_of(wrong), demand_of(scene)).strict:
            return wrong
    return None


def _with(scene: Scene, index: int, thing: Thing) -> Scene | None:
    things = scene.things[:index] + (thing,) + scene.things[index + 1 :]
    return replace(scene, things=things) if _stands(things) else None


def _stands(things) -> bool:
    """Wholly inside and apart: no fault but the one meant."""
    pairs = ((a, b) for i, a in enumerate(things) for b in things[:i])
    return all(is_inside(thing) for thing in things) and all(apart(a, b) for a, b in pairs)


def _wrong_shape(dice: Dice, scene: Scene) -> Scene | None:
    if not scene.things:
        return None
    index = dice.below(len(scene.things))
    return _with(scene, index, replace(scene.things[index], shape=dice.choice(SHAPES)))


def _wrong_colour(dice: Dice, scene: Scene) -> Scene | None:
    colour = dice.choice(colours_on(scene.background, _WORLD))
    if scene.word:
        return replace(scene, word=replace(scene.word, colour=colour))
    if not scene.colours_named:
        return None
    index = dice.below(len(scene.things))
    return _with(scene, index, replace(scene.things[index], colour=colour))


def _missing_object(dice: Dice, scene: Scene) -> Scene | None:
    index = dice.below(max(len(scene.things), 1))
    return replace(scene, things=scene.things[:index] + scene.things[index + 1 :]) if scene.things else None


def _extra_object(dice: Dice, scene: Scene) -> Scene | None:
    if not scene.things:
        return None
    thing = place(dice, dice.choice(SHAPES), dice.choice(colours_on(scene.background, _WORLD)), 16, _WORLD)
    things = (*scene.things, thing)
    return replace(scene, things=things) if _stands(things) else None


def _wrong_count(dice: Dice, scene: Scene) -> Scene | None:
    """One of the same more, or fewer."""
    if scene.category != "counting":
        return None
    if dice.chance(0.5):
        return _missing_object(dice, scene)
    like = scene.things[0]
    things = (*scene.things, place(dice, like.shape, like.colour, like.radius, _WORLD))
    return replace(scene, things=things) if _stands(things) else None


def _swapped_relation(dice: Dice, scene: Scene) -> Scene | None:
    if not scene.relation:
        return None
    first, second = scene.things
    things = replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)
    return replace(scene, things=things) if _stands(things) else None


def _wrong_size(dice: Dice, scene: Scene) -> Scene | None:
    if not scene.size:
        return None
    thing = scene.things[0]
    radius = dice.uniform(24, 29) if thing.radius < SIZE_BORDER else dice.uniform(13, 16.5)
    return replace(scene, things=(place(dice, thing.shape, thing.colour, radius, _WORLD),))


def _wrong_background(dice: Dice, scene: Scene) -> Scene | None:
    background = dice.choice(tuple(PALETTE))
    items = scene.things or (scene.word,)
    return replace(scene, background=background) if all(shows(i.colour, background, _WORLD) for i in items) else None


def _cut_object(dice: Dice, scene: Scene) -> Scene | None:
    """A fifth to a half of an object lies beyond the frame."""
    if not scene.things:
        return None
    index, side = dice.below(len(scene.things)), dice.below(4)
    thing = scene.things[index]
    left, top, right, bottom = (thing.radius * reach for reach in BOXES[thing.shape])
    share = dice.uniform(0.2, 0.5)
    if side % 2:
        y = -top - share * (bottom - top) if side == 1 else UNITS - bottom + share * (bottom - top)
        thing = replace(thing, y=y)
    else:
        x = -left - share * (right - left) if side == 0 else UNITS - right + share * (right - left)
        thing = replace(thing, x=x)
    others = scene.things[:index] + scene.things[index + 1 :]
    if not all(apart(thing, other) for other in others):
        return None
    return replace(scene, things=scene.things[:index] + (thing,) + scene.things[index + 1 :])


def _wrong_letter(dice: Dice, scene: Scene) -> Scene | None:
    if not scene.word:
        return None
    text, index = scene.word.text, dice.below(len(scene.word.text))
    return replace(scene, word=replace(scene.word, text=text[:index] + dice.choice(CHARACTERS) + text[index + 1 :]))


FAULTS = {
    "wrong shape": _wrong_shape, "wrong colour": _wrong_colour, "missing object": _missing_object,
    "extra object": _extra_object, "swapped relation": _swapped_relation, "wrong count": _wrong_count,
    "wrong size": _wrong_size, "wrong background": _wrong_background, "object cut at the edge": _cut_object,
    "wrong letter": _wrong_letter,
}  # fmt: skip
