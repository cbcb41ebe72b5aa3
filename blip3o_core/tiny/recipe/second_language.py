"""Trains the second edition's language model in phases: all, words above all, all again, then what was weakest.

To write a word, the model must copy letters of the prompt in their order. Among everything else it learns no more than
which letters the word has (650 steps at 40 % words); with eight images of ten showing a word it copies after 200 steps.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...checkpoint import Checkpoint, open_checkpoint
from ...models.language import LanguageModel
from ..scenes.edits import COMPOSE
from ..scenes.world import World
from . import language
from .assemble import assemble
from .carry_over import carry_over
from .editions import world_of
from .loop import FitSettings
from .model_config import SECOND_EDITION
from .recipe import Recipe
from .starts import claim, language_digest


@dataclass(frozen=True)
class Phase:
    name: str
    settings: FitSettings
    words: float  # share of scenes with words
    edits: bool = True  # half of the rows
    weak: bool = False  # more of what the gate found weakest


_FIRST = language.SETTINGS.replace(steps=4400)
_CONTINUED = language.SETTINGS.replace(steps=1400, lr=1e-3, muon=0.012)  # of another model, which knows most of it
_AGAIN = language.SETTINGS.replace(lr=8e-4, muon=0.011, warmup=20, ema_decay=0.997)
_LATER = (
    Phase(
        "words",
        language.SETTINGS.replace(steps=300, lr=1e-3, muon=0.015, warmup=20, ema_decay=0.98, final_lr=0.3),
        0.8,
        edits=False,
    ),
    Phase("again", _AGAIN.replace(steps=3000), 0.3),
    Phase("weak", _AGAIN.replace(steps=1400), 0.2, weak=True),
)
_ALIGN = Phase("align", _AGAIN.replace(steps=850, lr=1e-3, muon=0.008, warmup=30, ema_decay=0.99), 0.2, weak=True)
_CONDITIONS = 0.2  # weight of the connector's error in `align`; it begins near 0.7 where cross-entropy is 0.15
# After `again`, codes of square images were right in 91 %, of oblong ones in 62 %; two objects, backgrounds, and edits
# that add or compose were behind the others.
_WEAK_IMAGES = (
    ("single_object", 0.8),
    ("two_object", 1.8),
    ("counting", 1.8),
    ("colors", 0.5),
    ("position", 1.4),
    ("color_attr", 2.2),
    ("background", 2.4),
    ("size", 1.2),
)
_WEAK_EDITS = {
    "recolour": 1.5, "remove": 1.0, "replace": 2.0, "background": 0.7, "add": 2.5, "keep": 0.4, COMPOSE: 4.0,
}  # fmt: skip
_WEAK_OBLONG = 0.45, 0.35  # share of oblong images, and of oblong edits


def train(recipe: Recipe) -> LanguageModel:
    """Train and return the language model, from what that of `recipe.start` has learnt if it is given.

    The phases' folders are in `out`/language, with and without such a model in folders of their own. Steps beyond the
    stage's own are of the last phase. Raises Blip3oError for a phase that was begun from another model than this one.
    """
    start, out = recipe.start_checkpoint(aligned=False), recipe.out
    other = open_checkpoint(recipe.start) if recipe.start else None
    phases = (Phase("all", _FIRST if other is None else _CONTINUED, 0.35), *_LATER)
    place = out / "language" / ("from-nothing" if other is None else "carried-over")
    begun_from = "starting values" if other is None else language_digest(other)
    if other is not None:
        start = _with(out, place, "start", carry_over(other, start, SECOND_EDITION))
    for number, phase in enumerate(phases):
        folder = place / phase.name
        claim(folder, begun_from, [place / later.name for later in phases[number + 1 :]])
        own = recipe if phase is phases[-1] else replace(recipe, longer=0)
        model = language.train(start, folder, own.settings(phase.settings), recipe.report, *_data(phase))
        start = _with(out, place, phase.name, language.tensors(model))
        begun_from = language_digest(start)
    return model


def align(recipe: Recipe) -> LanguageModel:
    """Train the language model and its connector on what SANA was taught, and return both.

    A model that only predicts the next code forgets which one it has just written: from its states alone the connector
    cannot tell SANA. Here the states learn to keep it, at a third of the price of a step of `joint`.
    """
    start, folder = recipe.start_checkpoint(aligned=False), recipe.out / "align"
    claim(folder, language_digest(start))
    return language.train(start, folder, recipe.settings(_ALIGN.settings), recipe.report, *_data(_ALIGN), _CONDITIONS)


def _data(phase: Phase) -> tuple[World, language.Edits | None]:
    images, edits = language.WORLD, language.Edits(world_of(language.EDITS, 2))
    if not phase.weak:
        return world_of(images, 2, phase.words), edits if phase.edits else None
    world = world_of(replace(images, weights=_WEAK_IMAGES), 2, phase.words)
    of_images, of_edits = _WEAK_OBLONG
    return replace(world, oblong=of_images), language.Edits(replace(edits.world, oblong=of_edits), _WEAK_EDITS)


def _with(out: Path, place: Path, name: str, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    """A checkpoint of these tensors and the starting values of all other parts."""
    folder = place / f"{name}-checkpoint"
    return open_checkpoint(assemble(out, folder, sizes=SECOND_EDITION, given=tensors))
