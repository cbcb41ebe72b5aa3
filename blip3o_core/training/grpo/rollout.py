"""Rollouts of GRPO: tasks, their settings, drawn pictures and their scores."""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...decoding.sampling import Sampling
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ...tokens import ImageTokens


@dataclass(frozen=True)
class Task:
    prompt: str
    group: str  # what logs are split by
    ground_truth: Any = None  # what the reward wants to know of the prompt


@dataclass(frozen=True)
class Score:
    reward: float
    passed: bool  # all right or not; held-out tasks are compared by the share of it


Reward = Callable[[Sequence[Task], torch.Tensor], Sequence[Score]]  # tasks, pictures (B, H, W, 3) float32 in [0, 1]


Report = Callable[[dict], None]


@dataclass(frozen=True)
class GrpoSettings:
    checkpoint: str  # the folder to start from; it is also what KL is measured against
    out: str  # the run's folder
    updates: int = 200
    prompts: int = 8  # per update
    group: int = 8  # pictures of each prompt, compared with each other
    lr: float = 1e-4  # peak
    final_lr: float = 0.1  # where the cosine ends, as a share of the peak
    warmup: int = 10  # updates until the peak
    kl: float = 0.04  # weight of the distance to the checkpoint, in nats per token
    clip: float = 1.0  # largest norm of the gradient
    top_p: float = 1.0  # of training pictures; below 1 it is not the distribution that is scored, see docs/grpo.md
    steps: int = 5  # of diffusion, for training pictures
    guidance: float = 1.0  # of diffusion; 1 is off, half the work
    batch: int = 64  # pictures drawn at once, and per forward pass of the update
    bf16: bool = False  # autocast; weights and optimizer stay float32
    held_out_every: int = 20  # updates between looks at the held-out tasks
    held_out_steps: int = 12  # of diffusion, for held-out pictures
    save_every: int = 20  # updates between the states that a cut-off run goes on from
    seed: int = 0
    device: str = "auto"  # or 'cpu'
    diffusion_folder: str | None = None
    shard_gb: float = 5.0

    def __post_init__(self):
        for name in ("updates", "prompts", "steps", "batch", "held_out_every", "held_out_steps", "save_every"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "must be 1 or more")
        _check(self.group >= 2, "group", self.group, "must be 2 or more: pictures of one prompt are compared")
        for name in ("lr", "clip", "shard_gb"):
            _check(0 < getattr(self, name) < math.inf, name, getattr(self, name), "must be above 0")
        for name in ("kl", "warmup", "seed"):
            _check(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "must be 0 or more")
        _check(0 <= self.final_lr <= 1, "final_lr", self.final_lr, "must be from 0 to 1")
        _check(self.device in ("auto", "cpu"), "device", self.device, "must be 'auto' or 'cpu'")
        Sampling(top_p=self.top_p)

    @property
    def resume_fingerprint(self) -> dict:
        """What decides the numbers of a run, compared when it is resumed; `updates` may be raised."""
        free = ("checkpoint", "out", "updates", "batch", "save_every", "device", "diffusion_folder", "shard_gb")
        return {name: value for name, value in asdict(self).items() if name not in free}

    @property
    def rollout_sampling(self) -> Sampling:
        """At top-p 1 the distribution that TRL scores, untouched; below, what inference would draw from."""
        return Sampling(top_k=0, top_p=1.0) if self.top_p == 1 else Sampling(top_p=self.top_p)


def _check(right, name: str, value, reason: str) -> None:
    if not right:
        raise Blip3oError(f"{name} is {value!r}; it {reason}.")


def seed_of(*key) -> int:
    """64 bits of anything that can be written down: the same on every machine and in every order."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def rollout(
    pipeline: Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    noise_seeds: Sequence[int],
    sampling: Sampling,
    steps: int,
    settings: GrpoSettings,
) -> tuple[list[ImageTokens], torch.Tensor]:
    """Tokens in passes of `batch` rows, and their pictures (B, H, W, 3) on the CPU, as inference draws them."""
    passes, pictures = [], []
    autocast = torch.autocast(pipeline.device.type, torch.bfloat16) if settings.bf16 else nullcontext()
    with autocast:
        for first in range(0, len(prompts), settings.batch):
            rows = slice(first, first + settings.batch)
            tokens = pipeline.generate_tokens(list(prompts[rows]), list(seeds[rows]), sampling)
            made = pipeline.render(tokens, list(noise_seeds[rows]), steps=steps, guidance=settings.guidance)
            passes.append(tokens)
            pictures.append(made.cpu())
    return passes, torch.cat(pictures)


def score_images(reward: Reward, tasks: Sequence[Task], pictures: torch.Tensor) -> list[Score]:
    """The reward's scores, checked: a wrong number of them, or NaN, would silently train on something else."""
    scores = list(reward(tasks, pictures))
    if len(scores) != len(tasks):
        raise Blip3oError(f"The reward gave {len(scores)} scores for {len(tasks)} pictures; it must give one for each.")
    for task, one in zip(tasks, scores, strict=True):
        if not math.isfinite(one.reward):
            raise Blip3oError(f"The reward of {task.prompt!r} is {one.reward}; it must be a finite number.")
    return scores


def pass_rates(tasks: Sequence[Task], scores: Sequence[Score]) -> dict[str, float]:
    """Share of pictures that passed: over all, and by group as `passed/<group>`."""
    groups: dict[str, list[bool]] = {}
    for task, one in zip(tasks, scores, strict=True):
        groups.setdefault(task.group, []).append(one.passed)
    by_group = {f"passed/{name}": sum(passed) / len(passed) for name, passed in sorted(groups.items())}
    return {"passed": sum(one.passed for one in scores) / len(scores), **by_group}


def evaluate(pipeline: Pipeline, tasks: Sequence[Task], reward: Reward, settings: GrpoSettings) -> dict[str, float]:
    """Held-out tasks, drawn as inference draws them (top-p 0.95), row k always with the same seeds."""
    seeds = [seed_of("held out", row) for row in range(len(tasks))]
    prompts = [task.prompt for task in tasks]
    _, pictures = rollout(pipeline, prompts, seeds, seeds, Sampling(), settings.held_out_steps, settings)
    scores = score_images(reward, tasks, pictures)
    return {**pass_rates(tasks, scores), "reward": sum(one.reward for one in scores) / len(scores)}
