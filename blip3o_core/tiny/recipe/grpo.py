"""The tiny model's reinforcement learning (GRPO) stage, with the exact judge as its reward.

    python -m blip3o_core.tiny.recipe.grpo CONFIG.yaml [--resume] [KEY=VALUE ...]

Every update has one prompt of each category, so that none is learnt at the cost of another. Held-out scenes are of the
other split, with a seed that evaluations do not use: the best checkpoint is chosen by them.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ...errors import Blip3oError
from ...settings import Count, Flag, NotNegative, Positive, load_settings
from ...training.grpo.rollout import Report, Score, Task
from ...training.grpo.settings import GrpoSettings
from ...training.grpo.train import train
from ..judge.judge import judge_image
from ..scenes.captions import caption
from ..scenes.spec import spec_of
from ..scenes.world import CATEGORIES, World, make_scene

STRICT = 0.7  # share of the reward for an image that is completely right; the rest is partial credit
WORLD = World(low_contrast=False, coloured=0.45)  # that of the other stages
SEED = 61  # of the training scenes; no other stage has it
HELD_OUT_SEED = 62
logger = logging.getLogger(__name__)


class TinyGrpoSettings(GrpoSettings):
    """GRPO's settings with the defaults of this stage."""

    prompts: Count = len(CATEGORIES)
    lr: Positive = 5e-4
    kl: NotNegative = 0.02
    bf16: Flag = True
    device: Literal["auto", "cpu"] = "cpu"
    held_out: Count = 160  # scenes that the best checkpoint is chosen by


def make_tasks(count: int, split: str, seed: int, plain: bool = False) -> list[Task]:
    """Captions of scenes, the categories in turn, with the specs that the judge compares an image with."""
    tasks = []
    for index in range(count):
        category = CATEGORIES[index % len(CATEGORIES)]
        scene = make_scene(seed, split, index, WORLD, category)
        tasks.append(Task(caption(scene, index, plain), category, spec_of(scene)))
    return tasks


def reward(tasks: Sequence[Task], images: torch.Tensor) -> list[Score]:
    """0.7 for an image that the judge finds completely right, and up to 0.3 for the parts that are right."""
    verdicts = [judge_image(image.numpy(), task.ground_truth) for task, image in zip(tasks, images, strict=True)]
    return [Score(STRICT * one.strict + (1 - STRICT) * one.credit, one.strict) for one in verdicts]


def improve(settings: TinyGrpoSettings, resume: bool = False, report: Report | None = None) -> Path:
    """Run the stage -> the checkpoint that did best on held-out scenes."""
    tasks = make_tasks(settings.updates * settings.prompts, "train", SEED + settings.seed)
    held_out = make_tasks(settings.held_out, "held_back", HELD_OUT_SEED, plain=True)
    return train(settings, tasks, held_out, reward, resume, report)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m blip3o_core.tiny.recipe.grpo",
        description="Reinforcement learning of the tiny model, with the exact judge as reward.",
        epilog="docs/grpo.md lists the settings.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="YAML file with the settings")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings to use in place of the file's")
    parser.add_argument("--resume", action="store_true", help="continue from the last saved state in the run's folder")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    try:
        settings = load_settings(TinyGrpoSettings, arguments.config, arguments.overrides)
        best = improve(settings, arguments.resume, _log)
    except Blip3oError as error:
        logger.error("error: %s", error)
        return 2
    logger.info("%s", best)
    return 0


def _log(entry: dict) -> None:
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in entry.items())
    logger.info("%s", "  ".join(shown))


if __name__ == "__main__":
    sys.exit(main())
