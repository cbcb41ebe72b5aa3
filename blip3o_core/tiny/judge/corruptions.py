"""Scenes made wrong on purpose: each has one fault that contradicts its caption.

A corruption returns the changed scene, or None where it does not apply. `corrupt` returns only scenes that violate the
spec, by exact comparison of the scenes themselves.
"""

from dataclasses import replace

from ..scenes.font import CHARACTERS
from ..scenes.shapes import BOXES, SHAPES
from ..scenes.spec import SIZE_BORDER, compare, detection_of, spec_of
from ..scenes.world import (
    PALETTE,
    UNITS,
    KeyedRandom,
    Scene,
    SceneObject,
    World,
    has_gap,
    is_inside,
    is_visible,
    place_object,
    visible_colours,
)

_WORLD = World()


def corrupt(scene: Scene, corruption: str, seed: int) -> Scene | None:
    """The scene with the corruption, None if the caption allows it or no position is free for it."""
    rng = KeyedRandom("fault", corruption, seed)  # the key decides the corrupted scenes: do not rename it
    for _ in range(20):
        wrong = CORRUPTIONS[corruption](rng, scene)
        if wrong is not None and not compare(detection_of(wrong), spec_of(scene)).strict:
            return wrong
    return None


def _replace_object(scene: Scene, index: int, obj: SceneObject) -> Scene | None:
    objects = scene.objects[:index] + (obj,) + scene.objects[index + 1 :]
    return replace(scene, objects=objects) if _is_valid(objects) else None


def _is_valid(objects) -> bool:
    """Whether all objects are inside and have gaps between them, so that only the intended fault is there."""
    pairs = ((a, b) for i, a in enumerate(objects) for b in objects[:i])
    return all(is_inside(obj) for obj in objects) and all(has_gap(a, b) for a, b in pairs)


def _wrong_shape(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.objects:
        return None
    index = rng.below(len(scene.objects))
    return _replace_object(scene, index, replace(scene.objects[index], shape=rng.choice(SHAPES)))


def _wrong_colour(rng: KeyedRandom, scene: Scene) -> Scene | None:
    colour = rng.choice(visible_colours(scene.background, _WORLD))
    if scene.word:
        return replace(scene, word=replace(scene.word, colour=colour))
    if not scene.colours_named:
        return None
    index = rng.below(len(scene.objects))
    return _replace_object(scene, index, replace(scene.objects[index], colour=colour))


def _missing_object(rng: KeyedRandom, scene: Scene) -> Scene | None:
    index = rng.below(max(len(scene.objects), 1))
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :]) if scene.objects else None


def _extra_object(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.objects:
        return None
    obj = place_object(rng, rng.choice(SHAPES), rng.choice(visible_colours(scene.background, _WORLD)), 16, _WORLD)
    objects = (*scene.objects, obj)
    return replace(scene, objects=objects) if _is_valid(objects) else None


def _wrong_count(rng: KeyedRandom, scene: Scene) -> Scene | None:
    """One object of the same kind more, or one fewer."""
    if scene.category != "counting":
        return None
    if rng.chance(0.5):
        return _missing_object(rng, scene)
    like = scene.objects[0]
    objects = (*scene.objects, place_object(rng, like.shape, like.colour, like.radius, _WORLD))
    return replace(scene, objects=objects) if _is_valid(objects) else None


def _swapped_relation(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.relation:
        return None
    first, second = scene.objects
    objects = replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)
    return replace(scene, objects=objects) if _is_valid(objects) else None


def _wrong_size(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.size:
        return None
    obj = scene.objects[0]
    radius = rng.uniform(24, 29) if obj.radius < SIZE_BORDER else rng.uniform(13, 16.5)
    return replace(scene, objects=(place_object(rng, obj.shape, obj.colour, radius, _WORLD),))


def _wrong_background(rng: KeyedRandom, scene: Scene) -> Scene | None:
    background = rng.choice(tuple(PALETTE))
    items = scene.objects or (scene.word,)
    visible = all(is_visible(item.colour, background, _WORLD) for item in items)
    return replace(scene, background=background) if visible else None


def _cut_object(rng: KeyedRandom, scene: Scene) -> Scene | None:
    """A fifth to a half of an object lies outside the image."""
    if not scene.objects:
        return None
    index, side = rng.below(len(scene.objects)), rng.below(4)
    obj = scene.objects[index]
    left, top, right, bottom = (obj.radius * reach for reach in BOXES[obj.shape])
    share = rng.uniform(0.2, 0.5)
    if side % 2:
        y = -top - share * (bottom - top) if side == 1 else UNITS - bottom + share * (bottom - top)
        obj = replace(obj, y=y)
    else:
        x = -left - share * (right - left) if side == 0 else UNITS - right + share * (right - left)
        obj = replace(obj, x=x)
    others = scene.objects[:index] + scene.objects[index + 1 :]
    if not all(has_gap(obj, other) for other in others):
        return None
    return replace(scene, objects=scene.objects[:index] + (obj,) + scene.objects[index + 1 :])


def _wrong_letter(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.word:
        return None
    text, index = scene.word.text, rng.below(len(scene.word.text))
    return replace(scene, word=replace(scene.word, text=text[:index] + rng.choice(CHARACTERS) + text[index + 1 :]))


CORRUPTIONS = {
    "wrong shape": _wrong_shape,
    "wrong colour": _wrong_colour,
    "missing object": _missing_object,
    "extra object": _extra_object,
    "swapped relation": _swapped_relation,
    "wrong count": _wrong_count,
    "wrong size": _wrong_size,
    "wrong background": _wrong_background,
    "object cut at the edge": _cut_object,
    "wrong letter": _wrong_letter,
}
