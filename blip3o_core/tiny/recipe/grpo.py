"""The tiny model's reinforcement learning (GRPO) stage, with the exact judge as its reward: `blip3o grpo`.

Every update has one prompt of each category, so that none is learnt at the cost of another. Held-out scenes are of the
other split, with a seed that evaluations do not use: the best checkpoint is chosen by them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from ...settings import Count, Flag, NotNegative
from ...training.config import Rate
from ...training.grpo.rollout import Score, Task
from ...training.grpo.settings import Group, GrpoSettings
from ...training.grpo.train import train
from ...training.watch import Watch
from ..judge.judge import judge_image
from ..scenes.captions import caption
from ..scenes.spec import spec_of
from ..scenes.world import CATEGORIES, World, make_scene

STRICT = 0.7  # share of the reward for an image that is completely right; the rest is partial credit
WORLD = World(low_contrast=False, coloured=0.45)  # that of the other stages
SEED = 61  # of the training scenes; no other stage has it
HELD_OUT_SEED = 62


class TinyGrpoSettings(GrpoSettings):
    """GRPO's settings with the defaults of this stage."""

    prompts: Group = len(CATEGORIES)
    lr: Rate = 5e-4
    kl: Annotated[NotNegative, Field(le=1e6)] = 0.02
    bf16: Flag = True
    device: Literal["auto", "cpu"] = "cpu"
    held_out: Annotated[Count, Field(le=2**20)] = 160  # scenes that the best checkpoint is chosen by


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


def improve(settings: TinyGrpoSettings, resume: bool = False, watch: Watch = Watch()) -> Path | None:
    """Run the stage -> the checkpoint that did best on held-out scenes."""
    tasks = make_tasks(settings.updates * settings.prompts, "train", SEED + settings.seed)
    held_out = make_tasks(settings.held_out, "held_back", HELD_OUT_SEED, plain=True)
    return train(settings, tasks, held_out, reward, resume, watch)
