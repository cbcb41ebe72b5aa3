"""GRPO's look at held-out prompts, alone or in one of two processes that meet through a file."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.pipeline import Pipeline
from blip3o_core.training.grpo.rollout import Score, Task, evaluate

PROMPTS = ["a cat", "two dogs on a very long road", "a tree", "two owls", "three cats"]


def look(settings) -> tuple[dict, list[str]]:
    """(what the look finds, the prompts that this process scored)."""
    seen: list[str] = []

    def reward(tasks, images):
        seen.extend(task.prompt for task in tasks)
        return [Score(value, value > 0.5) for value in images.mean((1, 2, 3)).tolist()]

    pipeline = Pipeline(open_checkpoint(settings.checkpoint), "cpu", torch.float32)
    return evaluate(pipeline, [Task(prompt, prompt[:3]) for prompt in PROMPTS], reward, settings), seen


def look_together(settings, rank: int, meeting: str, result: str) -> None:
    """One of two processes; writes what `look` gives."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    Path(result).write_text(json.dumps(look(settings)))
    dist.destroy_process_group()
