"""Ten minutes on two cores from nothing: the recipe's stages up to the connector, shortened, in a smaller world.

Steps alone cannot be cut: after a tenth of them in the whole world nothing is drawn right. With one object on plain
ground in every picture the same parts need a fraction of the steps to draw most of what they are told.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch

from ...checkpoint import open_checkpoint
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ...seeds import row_seeds
from ..captions import caption
from ..demand import demand_of
from ..evaluation import SCENES
from ..judge import judge
from ..world import World, make_scene
from . import autoencoder, connector, image_tokenizer, language, renderer
from .assemble import assemble
from .loop import Settings
from .stages import STAGES, Recipe

WORLD = World(coloured=0.0, weights=(("single_object", 1.0), ("colors", 1.0), ("size", 1.0)))
SHARES = {"autoencoder": 0.25, "image_tokenizer": 0.15, "language": 0.36, "renderer": 0.36, "connector": 1.0}
MODULES = {"autoencoder": autoencoder, "image_tokenizer": image_tokenizer, "language": language, "renderer": renderer,
           "connector": connector}  # fmt: skip
CURVE = "curve.json"
_STEPS, _GUIDANCE = 20, 1.0  # of drawing; a connector that met no null condition cannot be guided by it


@dataclass(frozen=True)
class Quick(Recipe):
    """The recipe in the smaller world; `share` is of its own steps."""

    def of(self, stage: str) -> Settings:
        return replace(self, share=self.share * SHARES[stage]).settings(MODULES[stage].SETTINGS)

    def train(self, module, stage: str, *given):
        return module.train(*given, self.out / stage, self.of(stage), self.report, WORLD)


def run(recipe: Quick, count: int = 100) -> dict:
    """Train, draw `count` held-back pictures of each category -> the record, which is also in `out`/curve.json.

    All of it but the minutes is the same again on the same machine with as many threads. Raises Blip3oError where
    `out` holds something: a run that goes on from another one is not from nothing.
    """
    out, stages, minutes = recipe.out, {}, {}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Blip3oError(f"{out} is not empty, and a quick run starts from nothing. Name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    for stage in SHARES:
        with _minutes(minutes, stage):
            STAGES[stage].run(recipe)
        entries = [json.loads(line) for line in (out / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        stages[stage] = {"step": [entry["step"] for entry in entries], "loss": [entry["loss"] for entry in entries]}
    with _minutes(minutes, "accuracy"):
        pipeline = Pipeline(open_checkpoint(assemble(out, out / "checkpoint")))
        shares = {category: accuracy(pipeline, category, count) for category, _ in WORLD.weights}
    record = {"settings": settings(recipe), "machine": machine(), "cpu_minutes": minutes, "stages": stages,
              "pictures": count, "accuracy": shares}  # fmt: skip
    (out / CURVE).write_text(json.dumps(record) + "\n", encoding="utf-8")
    return record


@contextmanager
def _minutes(minutes: dict[str, float], what: str) -> Iterator[None]:
    began = time.process_time()
    yield
    minutes[what] = (time.process_time() - began) / 60


def settings(recipe: Quick) -> dict:
    """What the numbers depend on, besides the code."""
    stages = {stage: {"batch": module.BATCH, **asdict(recipe.of(stage))} for stage, module in MODULES.items()}
    return {"world": asdict(WORLD), "stages": stages, "drawing": {"steps": _STEPS, "guidance": _GUIDANCE}}


def machine() -> dict:
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"processor": kind, "threads": torch.get_num_threads(), "torch": torch.__version__}


def accuracy(pipeline: Pipeline, category: str, count: int) -> float:
    """Share of held-back prompts that are drawn right, one picture each."""
    scenes = [make_scene(SCENES, "held_back", index, WORLD, category) for index in range(count)]
    seeds = row_seeds(0, count)
    tokens = pipeline.draw([caption(scene, index, plain=True) for index, scene in enumerate(scenes)], seeds)
    pictures = pipeline.render(tokens, seeds, None, _STEPS, _GUIDANCE).cpu().numpy()
    right = [judge(picture, demand_of(scene)).strict for picture, scene in zip(pictures, scenes, strict=True)]
    return sum(right) / count
