"""Scenes made wrong on purpose: each has one fault that contradicts its caption.

A corruption returns the changed scene, or None where it does not apply. `corrupt` returns only scenes that violate the
spec, by exact comparison of the scenes themselves.
"""

from dataclasses import replace

from ..scenes.font import CHARACTERS
from ..scenes.keyed_random import KeyedRandom
from ..scenes.shapes import BOXES, SHAPES
from ..scenes.spec import SIZE_BORDER, compare, detection_of, spec_of
from ..scenes.textures import KINDS, SOLID, VARIANTS, Texture
from ..scenes.world import (
    CANVASES,
    LETTER_PITCH,
    PALETTE,
    SQUARE,
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


def corruptions(world: World) -> tuple[str, ...]:
    """Those that scenes of the world can have."""
    return tuple(CORRUPTIONS) + (tuple(MORE_CORRUPTIONS) if world.lettered else ())


def corrupt(scene: Scene, corruption: str, seed: int) -> Scene | None:
    """The scene with the corruption, None if the caption allows it or no position is free for it."""
    rng = KeyedRandom("fault", corruption, seed)  # the key decides the corrupted scenes: do not rename it
    for _ in range(20):
        wrong = (CORRUPTIONS | MORE_CORRUPTIONS)[corruption](rng, scene)
        if wrong is not None and not compare(detection_of(wrong), spec_of(scene)).strict:
            return wrong
    return None


def _replace_object(scene: Scene, index: int, obj: SceneObject) -> Scene | None:
    objects = scene.objects[:index] + (obj,) + scene.objects[index + 1 :]
    return replace(scene, objects=objects) if _is_valid(objects, scene) else None


def _is_valid(objects, scene: Scene) -> bool:
    """Whether all objects are inside and have gaps between them, so that only the intended fault is there."""
    items = (*objects, *((scene.word,) if scene.word else ()))
    pairs = ((a, b) for i, a in enumerate(items) for b in items[:i])
    return all(is_inside(obj, scene.canvas) for obj in objects) and all(has_gap(a, b) for a, b in pairs)


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
    if not scene.objects and not _is_lettered(scene):
        return None
    shape, colour = rng.choice(SHAPES), rng.choice(visible_colours(scene.background, _WORLD))
    objects = (*scene.objects, place_object(rng, shape, colour, 16, _WORLD, scene.canvas))
    return replace(scene, objects=objects) if _is_valid(objects, scene) else None


def _wrong_count(rng: KeyedRandom, scene: Scene) -> Scene | None:
    """One object of the same kind more, or one fewer."""
    if scene.category != "counting":
        return None
    if rng.chance(0.5):
        return _missing_object(rng, scene)
    like = scene.objects[0]
    obj = place_object(rng, like.shape, like.colour, like.radius, _WORLD, scene.canvas)
    objects = (*scene.objects, replace(obj, texture=like.texture))
    return replace(scene, objects=objects) if _is_valid(objects, scene) else None


def _swapped_relation(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.relation:
        return None
    first, second = scene.objects
    objects = replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)
    return replace(scene, objects=objects) if _is_valid(objects, scene) else None


def _wrong_size(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.size:
        return None
    obj = scene.objects[0]
    radius = rng.uniform(24, 29) if obj.radius < SIZE_BORDER else rng.uniform(13, 16.5)
    wrong = place_object(rng, obj.shape, obj.colour, radius, _WORLD)
    return replace(scene, objects=(replace(wrong, texture=obj.texture),))


def _wrong_background(rng: KeyedRandom, scene: Scene) -> Scene | None:
    background = rng.choice(tuple(PALETTE))
    items = scene.objects + ((scene.word,) if scene.word else ())
    visible = all(is_visible(item.colour, background, _WORLD) for item in items)
    return replace(scene, background=background) if visible else None


def _cut_object(rng: KeyedRandom, scene: Scene) -> Scene | None:
    """A fifth to a half of an object lies outside the image."""
    if not scene.objects:
        return None
    index, side = rng.below(len(scene.objects)), rng.below(4)
    obj = scene.objects[index]
    left, top, right, bottom = (obj.radius * reach for reach in BOXES[obj.shape])
    width, height = scene.canvas
    share = rng.uniform(0.2, 0.5)
    if side % 2:
        y = -top - share * (bottom - top) if side == 1 else height - bottom + share * (bottom - top)
        obj = replace(obj, y=y)
    else:
        x = -left - share * (right - left) if side == 0 else width - right + share * (right - left)
        obj = replace(obj, x=x)
    others = scene.objects[:index] + scene.objects[index + 1 :]
    if not all(has_gap(obj, other) for other in (*others, *((scene.word,) if scene.word else ()))):
        return None
    return replace(scene, objects=scene.objects[:index] + (obj,) + scene.objects[index + 1 :])


def _wrong_letter(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.word:
        return None
    text, index = scene.word.text, rng.below(len(scene.word.text))
    return replace(scene, word=replace(scene.word, text=text[:index] + rng.choice(CHARACTERS) + text[index + 1 :]))


def _is_lettered(scene: Scene) -> bool:
    return scene.word is not None and scene.word.pitch == LETTER_PITCH


def _missing_letter(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not _is_lettered(scene):
        return None
    text, index = scene.word.text, rng.below(len(scene.word.text))
    return replace(scene, word=replace(scene.word, text=text[:index] + text[index + 1 :]))


def _swapped_letters(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not _is_lettered(scene):
        return None
    text, index = scene.word.text, rng.below(len(scene.word.text) - 1)
    swapped = text[:index] + text[index + 1] + text[index] + text[index + 2 :]
    return replace(scene, word=replace(scene.word, text=swapped))


def _missing_word(rng: KeyedRandom, scene: Scene) -> Scene | None:
    return replace(scene, word=None) if _is_lettered(scene) else None


def _wrong_texture(rng: KeyedRandom, scene: Scene) -> Scene | None:
    """Another kind, or none, where the caption names one."""
    if not scene.textures_named:
        return None
    index = rng.below(len(scene.objects) + 1)
    old = scene.texture if index == len(scene.objects) else scene.objects[index].texture
    if old == SOLID:
        return None
    new = rng.choice([SOLID, *(Texture(kind, rng.below(VARIANTS[kind])) for kind in KINDS if kind != old.kind)])
    if index == len(scene.objects):
        return replace(scene, texture=new)
    return _replace_object(scene, index, replace(scene.objects[index], texture=new))


def _swapped_textures(rng: KeyedRandom, scene: Scene) -> Scene | None:
    if not scene.textures_named or len(scene.objects) != 2:
        return None
    first, second = scene.objects
    objects = replace(first, texture=second.texture), replace(second, texture=first.texture)
    return replace(scene, objects=objects)


def _wrong_canvas(rng: KeyedRandom, scene: Scene) -> Scene | None:
    """The same objects in an image of another shape, where all of them fit."""
    if scene.canvas == SQUARE:
        return None
    scene = replace(scene, canvas=rng.choice((SQUARE, *CANVASES.values())))
    return scene if _is_valid(scene.objects, scene) else None


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
# Of the second edition
MORE_CORRUPTIONS = {
    "missing letter": _missing_letter,
    "swapped letters": _swapped_letters,
    "missing word": _missing_word,
    "wrong texture": _wrong_texture,
    "swapped textures": _swapped_textures,
    "wrong image shape": _wrong_canvas,
}
