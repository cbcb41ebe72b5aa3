"""Ten CPU minutes from nothing: the recipe's stages up to `joint`, shortened, in a world with less to learn.

Steps alone cannot be cut: after a tenth of them in the whole world nothing is drawn right. With one large object on
plain ground in every picture the same parts need a fraction of the steps to draw most of what they are told.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ...checkpoint.checkpoint import open_checkpoint
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ...seeds import row_seeds
from ..evaluation import SCENE_SEED
from ..judge.judge import judge_image
from ..scenes.captions import caption
from ..scenes.spec import spec_of
from . import autoencoder, connector, data, image_tokenizer, language, renderer
from .loop import FitSettings
from .quick_world import QuickWorld, make_scene
from .stages import STAGES, Recipe

WORLD = QuickWorld(
    coloured=0.0,
    weights=(("single_object", 1.0), ("colors", 1.0)),
    shapes=("circle", "square", "triangle", "cross"),
    colours=("red", "yellow", "green", "blue"),
)
# Smaller batches than the whole recipe's: what is short here is steps.
SHORT = {
    "autoencoder": (250, 16),
    "image_tokenizer": (250, 20),
    "language": (450, 24),
    "renderer": (350, 24),
    "connector": (150, 24),
}
JOINT: dict[str, Any] = {"steps": 300, "slower": 1, "batch": 16, "ema_decay": 0.98}
JOINT_IMAGES = 1000  # of the joint stage
MODULES = {
    "autoencoder": autoencoder,
    "image_tokenizer": image_tokenizer,
    "language": language,
    "renderer": renderer,
    "connector": connector,
}
CURVE = "curve.json"
EVERY = 50  # steps between two points of a curve
_STEPS, _GUIDANCE = 20, 1.0  # of drawing


@dataclass(frozen=True)
class Quick(Recipe):
    """The recipe in the smaller world; `share` is of these steps, not of the whole recipe's."""

    def of(self, stage: str) -> FitSettings:
        full, (steps, batch) = MODULES[stage].SETTINGS, SHORT[stage]
        return replace(replace(self, share=self.share * steps / full.steps).settings(full), batch=batch)

    def train(self, module, stage: str, *given):
        return module.train(*given, self.out / stage, self.of(stage), self.report, WORLD)

    def run(self, stage: str) -> None:
        if stage != "joint":
            return STAGES[stage].run(self)
        start = self.start_checkpoint()
        data.pack_scenes(start, self.pack_path("captions"), 11, self.steps(JOINT_IMAGES), WORLD, (True, True, False))
        self.train_jointly("joint", start.folder, ["captions"], **JOINT)


def run(recipe: Quick, count: int = 100) -> dict:
    """Train, draw `count` held-back pictures of each category -> the record, which is also in `out`/curve.json.

    All of it but the minutes is the same again on the same machine with as many threads. Raises Blip3oError where
    `out` holds something: a run that goes on from another one is not from nothing.
    """
    out, stages, minutes = recipe.out, {}, {}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Blip3oError(f"{out} is not empty, and a quick run starts from nothing. Name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    for stage in (*SHORT, "joint"):
        with _minutes(minutes, stage):
            recipe.run(stage)
        log = (out / stage / "log.jsonl").read_text(encoding="utf-8")
        stages[stage] = _curve([json.loads(line) for line in log.splitlines()])
    with _minutes(minutes, "accuracy"):
        pipeline = Pipeline(open_checkpoint(recipe.last_checkpoint("joint")))
        shares = {category: accuracy(pipeline, category, count) for category, _ in WORLD.weights}
    record = {
        "settings": settings(recipe),
        "machine": machine(),
        "cpu_minutes": minutes,
        "stages": stages,
        "pictures": count,
        "accuracy": shares,
    }
    (out / CURVE).write_text(json.dumps(record) + "\n", encoding="utf-8")
    return record


def _curve(entries: list[dict]) -> dict[str, list]:
    chosen = [one for one in entries if one in (entries[0], entries[-1]) or one["step"] % EVERY == 0]
    return {"step": [one["step"] for one in chosen], "loss": [one["loss"] for one in chosen]}


@contextmanager
def _minutes(minutes: dict[str, float], what: str) -> Iterator[None]:
    began = time.process_time()
    yield
    minutes[what] = (time.process_time() - began) / 60


def settings(recipe: Quick) -> dict:
    """What the numbers depend on, besides the code."""
    stages = {stage: asdict(recipe.of(stage)) for stage in SHORT}
    stages["joint"] = {"pictures": recipe.steps(JOINT_IMAGES), **JOINT, "steps": recipe.steps(JOINT["steps"])}
    return {
        "world": asdict(WORLD),
        "stages": stages,
        "drawing": {"steps": _STEPS, "guidance": _GUIDANCE},
    }


def machine() -> dict:
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"processor": kind, "threads": torch.get_num_threads(), "torch": torch.__version__}


def accuracy(pipeline: Pipeline, category: str, count: int) -> float:
    """Share of held-back prompts that are drawn right, one picture each."""
    scenes = [make_scene(SCENE_SEED, "held_back", index, WORLD, category) for index in range(count)]
    seeds = row_seeds(0, count)
    tokens = pipeline.generate_tokens([caption(scene, index, plain=True) for index, scene in enumerate(scenes)], seeds)
    pictures = pipeline.render(tokens, seeds, None, _STEPS, _GUIDANCE).cpu().numpy()
    right = [judge_image(picture, spec_of(scene)).strict for picture, scene in zip(pictures, scenes, strict=True)]
    return sum(right) / count
