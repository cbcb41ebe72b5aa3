"""Trains from nothing in ten CPU minutes: the stages up to `joint`, shortened, in a world with less to learn.

Fewer steps alone are not enough: after a tenth of them in the whole world no image is right. With one large object on
grey in every image, the same parts need a fraction of the steps until most images are right.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...checkpoint import open_checkpoint
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ...seeds import row_seeds
from ..evaluation import SCENE_SEED
from ..scenes.captions import caption
from . import autoencoder, connector, image_tokenizer, language, renderer
from .gates import accuracy
from .loop import FitSettings
from .model_config import Sizes, sizes_of
from .quick_data import pack_scenes
from .quick_world import QuickWorld, make_scene
from .recipe import Recipe
from .stages import RATES, STAGES, part

WORLD = QuickWorld(
    coloured=0.0,
    weights=(("single_object", 1.0), ("colors", 1.0)),
    shapes=("circle", "square", "triangle", "cross"),
    colours=("red", "yellow", "green", "blue"),
)
# Steps and batch of each stage, and the steps that its average of weights was chosen for. Batches are smaller than in
# the whole recipe, to have more steps in the same time.
SHORT = {
    "autoencoder": (250, 16, 1200),
    "image_tokenizer": (250, 20, 2200),
    "language": (450, 24, 2200),
    "renderer": (350, 24, 1600),
    "connector": (150, 24, 400),
}
JOINT: dict[str, Any] = {"steps": 300, "batch": 16, "ema_decay": 0.98}
JOINT_IMAGES = 1000
MODULES = {
    "autoencoder": autoencoder,
    "image_tokenizer": image_tokenizer,
    "language": language,
    "renderer": renderer,
    "connector": connector,
}
CURVE = "curve.json"
EVERY = 50  # steps between two points of a curve
_STEPS, _GUIDANCE = 20, 1.0  # of the images that are judged


@dataclass(frozen=True)
class Quick(Recipe):
    """The recipe in the smaller world. `share` is a share of these steps, not of the whole recipe's."""

    @property
    def sizes(self) -> Sizes:
        """Of images of 64 pixels: the world has no words."""
        return sizes_of(WORLD)

    def data_path(self, name: str) -> Path:
        """A packed file."""
        return self.out / "data" / f"{name}.safetensors"

    def stage_settings(self, stage: str) -> FitSettings:
        steps, batch, whole = SHORT[stage]
        full = MODULES[stage].SETTINGS.replace(steps=whole)
        return replace(self, share=self.share * steps / whole).settings(full).replace(batch=batch)

    def train(self, module, stage: str, *given):
        return module.train(*given, self.out / stage, self.stage_settings(stage), self.report, WORLD)

    def run(self, stage: str) -> None:
        if stage == "language":
            return part(stage, language)(self)
        if stage != "joint":
            return STAGES[stage].run(self)
        start, path = self.start_checkpoint(), self.data_path("captions")
        pack_scenes(start, path, 11, self.steps(JOINT_IMAGES), WORLD, (True, True, False))
        own = {"fit": "crop", "cache_images": True, **JOINT}
        self.train_jointly("joint", start.folder, ["captions"], rates=RATES, **own)


def run(recipe: Quick, count: int = 100) -> dict:
    """Train, judge `count` held-back images of each category, and return the record, also written to `out`/curve.json.

    On the same machine with as many threads, a second run gives the same record except for the minutes. Raises
    Blip3oError if `out` is not empty, because the run would continue another one.
    """
    out, stages, minutes = recipe.out, {}, {}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Blip3oError(f"{out} is not empty. A quick run needs an empty folder: give another one with --out.")
    out.mkdir(parents=True, exist_ok=True)
    for stage in (*SHORT, "joint"):
        with _minutes(minutes, stage):
            recipe.run(stage)
        log = (out / stage / "log.jsonl").read_text(encoding="utf-8")
        stages[stage] = _curve([json.loads(line) for line in log.splitlines()])
    with _minutes(minutes, "accuracy"):
        pipeline = Pipeline(open_checkpoint(recipe.last_checkpoint("joint")))
        accuracies = {category: measure_accuracy(pipeline, category, count) for category, _ in WORLD.weights}
    record = {
        "settings": settings(recipe),
        "machine": machine(),
        "cpu_minutes": minutes,
        "stages": stages,
        "images": count,
        "accuracy": accuracies,
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
    others = {"log_every", "device", "workers"}
    stages = {stage: recipe.stage_settings(stage).model_dump(exclude=others) for stage in SHORT}
    stages["joint"] = {"images": recipe.steps(JOINT_IMAGES), **JOINT, "steps": recipe.steps(JOINT["steps"])}
    return {
        "world": asdict(WORLD),
        "stages": stages,
        "diffusion": {"steps": _STEPS, "guidance": _GUIDANCE},
    }


def machine() -> dict:
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"processor": kind, "threads": torch.get_num_threads(), "torch": torch.__version__}


def measure_accuracy(pipeline: Pipeline, category: str, count: int) -> float:
    """Share of held-back prompts whose image is right, one image each."""
    scenes = [make_scene(SCENE_SEED, "held_back", index, WORLD, category) for index in range(count)]
    seeds = row_seeds(0, count)
    tokens = pipeline.generate_tokens([caption(scene, index, plain=True) for index, scene in enumerate(scenes)], seeds)
    return accuracy(pipeline.render(tokens, seeds, None, _STEPS, _GUIDANCE).cpu().numpy(), scenes)
