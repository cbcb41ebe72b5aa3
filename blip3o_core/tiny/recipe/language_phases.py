"""Trains the language model in phases: all that it must do, words above all, all again, then what was weakest.

To write a word, the model must copy letters of the prompt in their order. Among everything else it learns no more than
which letters the word has (650 steps at 40 % words); with eight images of ten showing a word it copies after 200 steps.
`align` has phases of the same kind: what the states shall keep is learnt first, without edits, and then beside all. In
the last one the model learns from images of its own, too.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...checkpoint import Checkpoint, open_checkpoint
from ...models.language import LanguageModel
from ..scenes.edits import COMPOSE
from ..scenes.world import World
from . import connector, language
from .alignment import Alignment
from .assemble import assemble
from .carry_over import carry_over
from .loop import FitSettings
from .model_config import SECOND_EDITION
from .recipe import Recipe
from .reinforcement import Reinforcement
from .starts import claim, language_digest
from .worlds import whole


@dataclass(frozen=True)
class Phase:
    name: str
    settings: FitSettings
    words: float  # share of scenes with words
    edits: bool = True  # half of the rows
    weak: bool = False  # more of what the gate found weakest
    textured: float | None = None  # share of images with textures; None: the world's
    alignment: Alignment | None = None  # of the states with what SANA was taught
    reinforcement: Reinforcement | None = None  # from images of its own


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
_ALIGN = (
    Phase(
        "keep",
        _AGAIN.replace(steps=300, lr=1.5e-3, muon=0.015, warmup=15, ema_decay=0.95, final_lr=0.3),
        0.4,
        edits=False,
        weak=True,
        textured=1.0,
        alignment=Alignment(conditions=0.5, letters=0.25, textures=0.5),
    ),
    Phase(
        "all",
        _AGAIN.replace(steps=1100, lr=1e-3, muon=0.01, warmup=30, ema_decay=0.99),
        0.2,
        weak=True,
        textured=0.8,
        alignment=Alignment(conditions=0.3, letters=0.05, textures=0.1),
    ),
    Phase(
        "own",
        _AGAIN.replace(steps=400, batch=24, lr=4e-4, muon=0.004, warmup=10, ema_decay=0.97, final_lr=0.05),
        0.12,
        weak=True,
        alignment=Alignment(conditions=0.2, letters=0.03, textures=0.06),
        reinforcement=Reinforcement(weight=3.0),
    ),
)
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
    return _run(recipe, phases, place, start, begun_from)


def align(recipe: Recipe) -> LanguageModel:
    """Train the language model and its connector on what SANA was taught, and return both.

    A model that only predicts the next code forgets which one it has just written: from its states alone the connector
    cannot tell SANA. Here the states learn to keep it, at a third of the price of a step of `joint`.
    """
    start = recipe.start_checkpoint(aligned=False)
    return _run(recipe, _ALIGN, recipe.out / "align", start, language_digest(start))


def _run(recipe: Recipe, phases: tuple[Phase, ...], place: Path, start: Checkpoint, begun_from: str) -> LanguageModel:
    """Train one phase after the other in folders of `place`, the last with the steps beyond the stage's own."""
    for number, phase in enumerate(phases):
        folder = place / phase.name
        claim(folder, begun_from, [place / later.name for later in phases[number + 1 :]])
        own = recipe if phase is phases[-1] else replace(recipe, longer=0)
        settings = own.settings(phase.settings)
        model = language.train(start, folder, settings, recipe.report, *_data(phase))
        trained = language.tensors(model) | connector.tensors(model.connector)
        start = _with(recipe.out, place, phase.name, trained)
        begun_from = language_digest(start)
    return model


def _data(phase: Phase) -> tuple[World, language.Additions]:
    images, edits = whole(language.WORLD, phase.words), language.Edits(whole(language.EDITS))
    if phase.textured is not None:
        images = replace(images, textured=phase.textured)
    if phase.weak:
        of_images, of_edits = _WEAK_OBLONG
        weak = whole(replace(language.WORLD, weights=_WEAK_IMAGES), phase.words)
        images = replace(images, weights=weak.weights, oblong=of_images)
        edits = language.Edits(replace(edits.world, oblong=of_edits), _WEAK_EDITS)
    return images, language.Additions(edits if phase.edits else None, phase.alignment, phase.reinforcement)


def _with(out: Path, place: Path, name: str, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    """A checkpoint of these tensors and the starting values of all other parts."""
    folder = place / f"{name}-checkpoint"
    return open_checkpoint(assemble(out, folder, sizes=SECOND_EDITION, given=tensors))
