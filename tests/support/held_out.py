"""GRPO's look at held-out prompts, alone or in one of two processes that meet through a file."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.training.grpo.rollout import Roller
from blip3o_core.training.rl.held_out import HeldOut
from blip3o_core.training.rl.held_out import look as look_at
from blip3o_core.training.rl.tasks import Task

PROMPTS = ["a cat", "two dogs on a very long road", "a tree", "two owls", "three cats"]


class Brightness:
    name, version, range = "brightness", "1", (0.0, 1.0)

    def __init__(self):
        self.seen: list[str] = []

    def __call__(self, images, prompts, references, masks, meta):
        self.seen += prompts
        return [float(image.mean()) for image in images]


def look(settings) -> tuple[dict, list[str], list]:
    """(what the look finds, the prompts that this process scored, the mean of each image that is kept)."""
    reward = Brightness()
    roller = Roller(Pipeline(open_checkpoint(settings.checkpoint), "cpu", torch.float32), settings)
    tasks = [Task(prompt, prompt[:3]) for prompt in PROMPTS]
    seen = look_at(HeldOut(tasks, RewardMix([Part(reward)]), roller.open_task, 0.5, 3), roller.held_out)
    return seen.entry, reward.seen, [float(image.mean()) for image in seen.images]


def look_together(settings, rank: int, meeting: str, result: str) -> None:
    """One of two processes; writes what `look` gives."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    Path(result).write_text(json.dumps(look(settings)))
    dist.destroy_process_group()
