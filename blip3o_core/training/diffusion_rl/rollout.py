"""Rollouts: latents of the policy, and of each what learning needs to see again.

Rows are images. They go through the network in passes of rows of one kind, the same passes when they are replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ...diffusion.sampler import Conditioning, initial_noise
from ...seeds import seeded
from .policy import Condition, Velocity, stack
from .step import sde_step


@dataclass(frozen=True)
class Moment:
    """A step with noise that a rollout made. Everything is float32: a rounded latent has another probability."""

    s: float
    s_next: float
    x: torch.Tensor  # (B, C, h, w)
    x_next: torch.Tensor
    log_prob: torch.Tensor  # (B,)


@dataclass(frozen=True)
class Rollout:
    """The images of one pass. Of the steps only those of the window are kept."""

    rows: slice  # of the rows of this process
    conditioning: Conditioning
    latents: torch.Tensor  # (B, C, h, w), scaled
    moments: list[Moment] = field(default_factory=list)


def passes(conditions: Sequence[Condition], batch: int) -> list[slice]:
    """Neighbouring rows of one kind, at most `batch` in a pass."""
    found, first = [], 0
    for row in range(1, len(conditions) + 1):
        ends = row == len(conditions) or row - first == batch or conditions[row].kind != conditions[first].kind
        if ends:
            found.append(slice(first, row))
            first = row
    return found


@torch.no_grad()
def roll_out(
    velocity: Velocity,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    schedule: torch.Tensor,
    window: Sequence[int],
    eta: float,
    batch: int,
) -> list[Rollout]:
    """An image for each row along `schedule`, with noise in the steps of `window`. Row k has the noise of seeds[k]."""
    device, found = velocity.transformer.device, []
    for rows in passes(conditions, batch):
        own, conditioning = list(seeds[rows]), stack(conditions[rows])
        x = initial_noise(conditions[rows.start].shape, own).to(device)
        # Not the numbers that the first noise was made of.
        generators = [seeded(seed ^ 1) for seed in own]
        moments = []
        for number, (s, s_next) in enumerate(zip(schedule[:-1].tolist(), schedule[1:].tolist(), strict=True)):
            v = velocity(x, s, s_next, conditioning)
            level = eta if number in window else 0.0
            noise = None
            if level:
                noise = torch.stack([torch.randn(x.shape[1:], generator=one) for one in generators]).to(device)
            step = sde_step(v, x, s, s_next, level, noise=noise)
            if step.log_prob is not None:
                moments.append(Moment(s, s_next, x, step.x_next, step.log_prob))
            x = step.x_next
        found.append(Rollout(rows, conditioning, x, moments))
    return found
