"""Small runs of reinforcement learning on the diffusion, alone or in one of two processes."""

import itertools
import os
from pathlib import Path

import torch

from blip3o_core.training.diffusion_rl.settings import DiffusionRlSettings
from blip3o_core.training.diffusion_rl.train import train_on
from blip3o_core.training.ema import EMA
from blip3o_core.training.watch import Watch

from .rl import SMALL, mix_of, task_set


def small_settings(source: Path, out: Path) -> DiffusionRlSettings:
    few = {**SMALL, "checkpoint": str(source), "out": str(out), "pass_at": None, "samples": 0, "kl": 0.05}
    return DiffusionRlSettings(**few, noise=0.4, lora={"rank": 4, "alpha": 8})


def brightness(images) -> list[float]:
    return [float(image.mean()) for image in images]


def rising():
    """A reward whose mean is larger at every call, so that the last checkpoint is the best."""
    calls = itertools.count()
    return lambda images: [value + next(calls) for value in brightness(images)]


def trained(settings, *judges, resume: bool = False, watch: Watch = Watch()) -> Path | None:
    return train_on(settings, task_set(), mix_of(*(judges or [brightness])), resume, watch)


def average_of(parameters) -> EMA:
    """An old policy that differs from the one that is trained."""
    old = EMA(parameters, 0.0)
    for tensor in old.shadow.values():
        tensor.mul_(0.8)
    return old


def train_together(settings, rank: int, meeting: str) -> None:
    """One of two processes that meet through a file."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = "29500"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    trained(settings)
    dist.destroy_process_group()
