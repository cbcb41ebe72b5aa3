"""Grids of pictures with their captions, to look at."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import Blip3oError
from ..scenes.captions import caption
from ..scenes.edits import EDIT_KINDS, instruction, make_edit, may_change
from ..scenes.rasterize import DEFAULT_SIDE, rasterize
from ..scenes.spec import spec_of
from ..scenes.world import CATEGORIES, TEXT, World, make_scene
from .corruptions import CORRUPTIONS, corrupt
from .degradation import degrade
from .judge import judge_image
from .report import degradations


def make_contact_sheet(pictures, captions, columns: int = 6, width: int = 192, letters: int = 10) -> np.ndarray:
    """(H, W, 3) uint8 pictures of any size -> one picture, each `width` px wide over its caption, `letters` px high."""
    pictures, line_height = list(pictures), round(1.1 * letters)
    texts = [textwrap.wrap(text, int((width - 4) / (0.6 * letters))) for text in captions]
    lines = max(len(text) for text in texts)
    heights = [round(width * picture.shape[0] / picture.shape[1]) for picture in pictures]
    cell = width + 8, max(heights) + line_height * lines + letters
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (cell[0] * min(columns, len(pictures)), cell[1] * rows), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(letters)
    for index, (picture, text, height) in enumerate(zip(pictures, texts, heights, strict=True)):
        left, top = cell[0] * (index % columns) + 4, cell[1] * (index // columns) + 4
        page.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (left, top))
        for number, line in enumerate(text):
            pen.text((left, top + height + 2 + line_height * number), line, "black", font)
    return np.asarray(page)


def examples(what: str, side: int = DEFAULT_SIDE, seed: int = 0, world: World | None = None):
    """36 pictures and captions for a sheet: scenes, text, edits, faults or soft."""
    world = world or World()
    show = {"edits": _edit, "faults": _fault, "soft": _soft}.get(what, _scene)
    return zip(*(show(what, index, side, seed, world) for index in range(36)), strict=True)


def _scene(what: str, index: int, side: int, seed: int, world: World):
    category = TEXT if what == "text" else CATEGORIES[index % len(CATEGORIES)]
    scene = make_scene(seed, "train", index, world, category)
    return rasterize(scene, side), caption(scene, index)


def _soft(what: str, index: int, side: int, seed: int, world: World):
    picture, text = _scene(what, index, side, seed, world)
    return degrade(picture, degradations(side, world)["32 dB, 10 % off"], np.random.default_rng(index)), text


def _edit(what: str, index: int, side: int, seed: int, world: World):
    """Before, after, and after with the pixels dimmed that must not change."""
    edit = make_edit(seed, "train", index, world, EDIT_KINDS[index % len(EDIT_KINDS)])
    source, target = rasterize(edit.source, side), rasterize(edit.target, side)
    dimmed = np.where(may_change(edit, side)[..., None], target, 128 + target // 8).astype(np.uint8)
    return np.hstack([source, target, dimmed]), instruction(edit, index)


def _fault(what: str, index: int, side: int, seed: int, world: World):
    """A wrong picture with the judge's reasons."""
    fault = list(CORRUPTIONS)[index % len(CORRUPTIONS)]
    for number in range(index, 37 * 200, 37):  # 37 turns all categories over
        scene = make_scene(seed, "train", number, world, (*CATEGORIES, TEXT)[number % 9])
        wrong = corrupt(scene, fault, index)
        if wrong is not None:
            picture = rasterize(wrong, side)
            return picture, f"{caption(scene, index)} [{'; '.join(judge_image(picture, spec_of(scene)).reasons)}]"
    raise Blip3oError(f"No scene was found that {fault!r} makes wrong. Is its demand still checked?")
