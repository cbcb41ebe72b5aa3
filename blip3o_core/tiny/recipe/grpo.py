"""The tiny model's last stage: reinforcement learning (GRPO) with the exact judge as its reward.

    python -m blip3o_core.tiny.recipe.grpo --checkpoint runs/tiny/joint/step-00001200 --out runs/tiny/grpo

Every update draws one prompt of each category, so that none is learnt at the cost of another. Held-out scenes are of
the other split and of another seed than evaluations use: the best checkpoint is chosen by them.
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ...errors import Blip3oError
from ...training.grpo.rollout import GrpoSettings, Report, Score, Task
from ...training.grpo.train import train
from ..judge.judge import judge_image
from ..scenes.captions import caption
from ..scenes.spec import spec_of
from ..scenes.world import CATEGORIES, World, make_scene

STRICT = 0.7  # share of the reward for a picture that is all right; the rest is partial credit
WORLD = World(low_contrast=False, coloured=0.45)  # that of the other stages
SEED = 61  # of the training scenes; no other stage has it
HELD_OUT_SEED, HELD_OUT = 62, 160
SETTINGS = {"prompts": len(CATEGORIES), "group": 8, "lr": 5e-4, "kl": 0.02, "bf16": True, "device": "cpu"}

logger = logging.getLogger(__name__)


def make_tasks(count: int, split: str, seed: int, plain: bool = False) -> list[Task]:
    """Captions of scenes, the categories in turn, with what they demand of a picture."""
    tasks = []
    for index in range(count):
        category = CATEGORIES[index % len(CATEGORIES)]
        scene = make_scene(seed, split, index, WORLD, category)
        tasks.append(Task(caption(scene, index, plain), category, spec_of(scene)))
    return tasks


def reward(tasks: Sequence[Task], pictures: torch.Tensor) -> list[Score]:
    """0.7 for a picture that the judge finds right, up to 0.3 for what is right of it."""
    verdicts = [judge_image(picture.numpy(), task.ground_truth) for task, picture in zip(tasks, pictures, strict=True)]
    return [Score(STRICT * one.strict + (1 - STRICT) * one.credit, one.strict) for one in verdicts]


def improve(
    checkpoint: Path, out: Path, resume: bool = False, report: Report | None = None, held_out: int = HELD_OUT, **changes
) -> Path:
    """Run the stage -> the checkpoint that did best on held-out scenes. `changes`: of GrpoSettings."""
    settings = GrpoSettings(str(checkpoint), str(out), **{**SETTINGS, **changes})
    tasks = make_tasks(settings.updates * settings.prompts, "train", SEED + settings.seed)
    return train(settings, tasks, make_tasks(held_out, "held_back", HELD_OUT_SEED, plain=True), reward, resume, report)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m blip3o_core.tiny.recipe.grpo",
        description="Reinforcement learning of the tiny model, with the exact judge as reward.",
        epilog="A run that was cut off goes on with --resume. docs/grpo.md has the settings and the numbers.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder to start from")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; its step-* is the best checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state in --out")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help=f"scenes to choose the best by ({HELD_OUT})")
    names = ("updates", "prompts", "group", "lr", "final_lr", "warmup", "kl", "clip", "top_p", "steps", "batch", "seed",
             "held_out_every", "held_out_steps", "save_every")  # fmt: skip
    fields = {field.name: field for field in dataclasses.fields(GrpoSettings)}
    for name in names:
        default = SETTINGS.get(name, fields[name].default)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(default), default=default, help=f"default {default}")
    parser.add_argument("--fp32", action="store_true", help="no bf16 autocast; slower on a CPU that has bf16")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    changes = {name: getattr(arguments, name) for name in names} | {"bf16": not arguments.fp32}
    try:
        best = improve(arguments.checkpoint, arguments.out, arguments.resume, _tell, arguments.held_out, **changes)
    except Blip3oError as error:
        logger.error("error: %s", error)
        return 2
    logger.info("%s", best)
    return 0


def _tell(entry: dict) -> None:
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in entry.items())
    logger.info("%s", "  ".join(shown))


if __name__ == "__main__":
    sys.exit(main())
