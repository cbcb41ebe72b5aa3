"""Examples of the world with their captions, to look at on a contact sheet."""

import numpy as np

from ...errors import Blip3oError
from ..scenes.captions import caption
from ..scenes.edits import edit_kinds, instruction, make_edit, may_change
from ..scenes.rasterize import DEFAULT_SIDE, rasterize
from ..scenes.spec import spec_of
from ..scenes.world import CATEGORIES, TEXT, World, make_scene
from .corruptions import corrupt, corruptions
from .degradation import degrade
from .judge import judge_image
from .report import degradations

EXAMPLES = 36  # on a sheet


def examples(what: str, side: int = DEFAULT_SIDE, seed: int = 0, world: World | None = None):
    """Images and captions for a contact sheet of scenes, text, edits, corruptions or degraded images."""
    world = world or World()
    make = {"edits": _edit, "corruptions": _corrupted, "degraded": _degraded}.get(what, _scene)
    return zip(*(make(what, index, side, seed, world) for index in range(EXAMPLES)), strict=True)


def _scene(what: str, index: int, side: int, seed: int, world: World):
    category = TEXT if what == "text" else world.categories[index % len(world.categories)]
    scene = make_scene(seed, "train", index, world, category)
    return rasterize(scene, side), caption(scene, index)


def _degraded(what: str, index: int, side: int, seed: int, world: World):
    image, text = _scene(what, index, side, seed, world)
    return degrade(image, degradations(side, world)["32 dB, 10 % off"], np.random.default_rng(index)), text


def _edit(what: str, index: int, side: int, seed: int, world: World):
    """Before, after, and after with the pixels that must not change dimmed."""
    kinds = edit_kinds(world)
    edit = make_edit(seed, "train", index, world, kinds[index % len(kinds)])
    sources, target = [rasterize(scene, side) for scene in edit.sources], rasterize(edit.target, side)
    dimmed = np.where(may_change(edit, side)[..., None], target, 128 + target // 8).astype(np.uint8)
    return np.hstack([*sources, target, dimmed]), instruction(edit, index)


def _corrupted(what: str, index: int, side: int, seed: int, world: World):
    """A wrong image with the judge's reasons."""
    names = corruptions(world)
    corruption = names[index % len(names)]
    for number in range(index, 37 * 200, 37):  # steps of 37 pass through all nine categories
        scene = make_scene(seed, "train", number, world, (*CATEGORIES, TEXT)[number % 9])
        wrong = corrupt(scene, corruption, index)
        if wrong is not None:
            image = rasterize(wrong, side)
            reasons = judge_image(image, spec_of(scene)).reasons
            return image, f"{caption(scene, index)} [{'; '.join(reasons)}]"
    raise Blip3oError(f"No scene was found for {corruption!r}. Check that the judge still looks for it.")
