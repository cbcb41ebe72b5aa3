"""Ten CPU minutes from nothing: the recipe's stages up to the connector, shortened, in a world with less to learn.

Steps alone cannot be cut: after a tenth of them in the whole world nothing is drawn right. With one object on plain
ground in every picture the same parts need a fraction of the steps to draw most of what they are told.
"""

import json
import platform
import time
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
from .assemble import assemble
from .stages import STAGES, Recipe

WORLD = World(coloured=0.0, weights=(("single_object", 1.0), ("colors", 1.0), ("size", 1.0)))
SHARES = {"autoencoder": 0.25, "image_tokenizer": 0.15, "language": 0.2, "renderer": 0.2, "connector": 0.3}
CURVE = "curve.json"
_STEPS, _GUIDANCE = 20, 1.0  # of drawing; a connector that met no null condition cannot be guided by it


@dataclass(frozen=True)
class Quick(Recipe):
    """The recipe in the smaller world; `share` is of its own steps."""

    def train(self, module, stage: str, *given):
        settings = replace(self, share=self.share * SHARES[stage]).settings(module.SETTINGS)
        return module.train(*given, self.out / stage, settings, self.report, WORLD)


def run(recipe: Quick, count: int = 100) -> dict:
    """Train, draw `count` held-back pictures of each category -> the record, which is also in `out`/curve.json.

    All of it but the minutes is the same again on the same machine with as many threads. Raises Blip3oError where
    `out` holds something: a run that goes on from another one is not from nothing.
    """
    if recipe.out.is_dir() and any(recipe.out.iterdir()):
        raise Blip3oError(f"{recipe.out} is not empty, and a quick run starts from nothing. Name another folder.")
    recipe.out.mkdir(parents=True, exist_ok=True)
    stages = {}
    for stage in SHARES:
        began = time.process_time()
        STAGES[stage].run(recipe)
        minutes = (time.process_time() - began) / 60
        entries = [json.loads(line) for line in (recipe.out / stage / "log.jsonl").read_text().splitlines()]
        stages[stage] = {"cpu_minutes": round(minutes, 2), "step": [entry["step"] for entry in entries],
                         "loss": [round(entry["loss"], 5) for entry in entries]}  # fmt: skip
    pipeline = Pipeline(open_checkpoint(assemble(recipe.out, recipe.out / "checkpoint")))
    record = {"settings": settings(recipe), "machine": machine(), "stages": stages, "pictures": count,
              "accuracy": {category: accuracy(pipeline, category, count) for category, _ in WORLD.weights}}  # fmt: skip
    (recipe.out / CURVE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def settings(recipe: Quick) -> dict:
    """What the numbers depend on, besides the code."""
    return {"world": asdict(WORLD), "shares": SHARES, "share": recipe.share, "steps": _STEPS, "guidance": _GUIDANCE}


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
