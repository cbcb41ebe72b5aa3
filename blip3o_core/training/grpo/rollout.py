"""Rollouts of GRPO: tasks, the images that the policy makes of them, and their scores."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ...decoding.sampling import Sampling
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ...seeds import seed_of
from ...tokens.image_tokens import ImageTokens
from .settings import GrpoSettings


@dataclass(frozen=True)
class Task:
    prompt: str
    group: str  # logs have a pass rate for each group
    ground_truth: Any = None  # what the reward needs to judge an image, besides the prompt


@dataclass(frozen=True)
class Score:
    reward: float
    passed: bool  # whether the image is completely right. Checkpoints are compared by the share that passed


Reward = Callable[[Sequence[Task], torch.Tensor], Sequence[Score]]  # tasks, images (B, H, W, 3) float32 in [0, 1]
T = TypeVar("T")


def rollout(
    pipeline: Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    noise_seeds: Sequence[int],
    sampling: Sampling,
    steps: int,
    settings: GrpoSettings,
) -> tuple[list[ImageTokens], torch.Tensor]:
    """Tokens in passes of `batch` rows, and their images (B, H, W, 3) on the CPU, as inference makes them."""
    passes, images = [], []
    autocast = torch.autocast(pipeline.device.type, torch.bfloat16) if settings.bf16 else nullcontext()
    with autocast:
        for first in range(0, len(prompts), settings.batch):
            rows = slice(first, first + settings.batch)
            tokens = pipeline.generate_tokens(list(prompts[rows]), list(seeds[rows]), sampling)
            rendered = pipeline.render(tokens, list(noise_seeds[rows]), steps=steps, guidance=settings.guidance)
            passes.append(tokens)
            images.append(rendered.cpu())
    return passes, torch.cat(images)


def score_images(reward: Reward, tasks: Sequence[Task], images: torch.Tensor) -> list[Score]:
    """The reward's scores. Raises Blip3oError for a wrong number of them or NaN, which would train something else."""
    scores = list(reward(tasks, images))
    if len(scores) != len(tasks):
        raise Blip3oError(f"The reward gave {len(scores)} scores for {len(tasks)} images. Give one score per image.")
    for task, one in zip(tasks, scores, strict=True):
        if not math.isfinite(one.reward):
            raise Blip3oError(f"The reward for {task.prompt!r} is {one.reward}. It must be a finite number.")
    return scores


def pass_rates(tasks: Sequence[Task], scores: Sequence[Score]) -> dict[str, float]:
    """Share of images that passed: of all as `passed`, and of each group as `passed/<group>`."""
    groups: dict[str, list[bool]] = {}
    for task, one in zip(tasks, scores, strict=True):
        groups.setdefault(task.group, []).append(one.passed)
    by_group = {f"passed/{name}": sum(passed) / len(passed) for name, passed in sorted(groups.items())}
    return {"passed": sum(one.passed for one in scores) / len(scores), **by_group}


def evaluate(pipeline: Pipeline, tasks: Sequence[Task], reward: Reward, settings: GrpoSettings) -> dict[str, float]:
    """Pass rates and mean reward of held-out tasks, sampled as inference does (top-p 0.95). Row k has its own seeds.

    Where there are several processes all must call it: each makes its share of the images, and all get the result.
    """
    rank, count = (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)
    mine = range(rank, len(tasks), count)
    scores: list[Score] = []
    if mine:
        seeds = [seed_of("held out", row) for row in mine]
        own = [tasks[row] for row in mine]
        prompts = [task.prompt for task in own]
        _, images = rollout(pipeline, prompts, seeds, seeds, Sampling(), settings.held_out_steps, settings)
        scores = score_images(reward, own, images)
    shares = share(scores)
    scores = [shares[row % count][row // count] for row in range(len(tasks))]
    return {**pass_rates(tasks, scores), "reward": sum(one.reward for one in scores) / len(scores)}


def share(value: T) -> list[T]:
    """What every process has, in the order of the processes. All must call it."""
    if not _several():
        return [value]
    found: list = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
