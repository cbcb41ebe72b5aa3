"""A step of the diffusion that has a probability: the reverse SDE with the marginals of the ODE, in Gaussian steps.

    mean = x + dt * (v + a * (x + (1 - s) * v) / (2 * s))    a = eta^2 * s / (1 - s),  dt = s_next - s
    x_next = mean + sqrt(a * -dt) * noise

One function samples and replays, so that both compute the same numbers. All of it is float32.

Source: Flow-GRPO, arXiv 2505.05470, equation 9; `sd3_sde_with_logprob.py` of yifan123/flow_grpo. As there, a
log-probability is the mean over dimensions. The first step, where s is 1 and a infinite, takes `a` at its end, s_next;
there it is eta^2 / (1 - s_next), which is as much for small steps.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Step:
    """What a step gave: (B, ...) float32 latents, and of a step with noise its probability."""

    x_next: torch.Tensor
    mean: torch.Tensor
    std: float  # 0: the step is deterministic
    log_prob: torch.Tensor | None  # (B,) mean over dimensions; None for a deterministic step


def sde_step(
    v: torch.Tensor,
    x: torch.Tensor,
    s: float,
    s_next: float,
    eta: float,
    x_next: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
) -> Step:
    """The step from sigma `s` to `s_next` along the velocity `v` at `x`, both (B, ...).

    `noise`: standard normal like `x`, for a new step; or `x_next`: where a step went that is replayed. The last step of
    a schedule (`s_next` 0), and any with `eta` 0, is the Euler step of the ODE.
    """
    v, x, dt = v.float(), x.float(), s_next - s
    std = step_std(s, s_next, eta)
    if std == 0:
        mean = x + dt * v
        return Step(mean, mean, 0.0, None)
    drift = std**2 / -dt / (2 * s)
    mean = x + dt * (v + drift * (x + (1 - s) * v))
    if x_next is None:
        if noise is None:
            raise ValueError("a new step needs noise")
        x_next = mean.detach() + std * noise.float()
    return Step(x_next, mean, std, log_probability(x_next.float(), mean, std))


def step_std(s: float, s_next: float, eta: float) -> float:
    """The standard deviation of the noise that a step adds."""
    if s_next == 0 or eta == 0:
        return 0.0
    level = s_next if s >= 1 else s
    return eta * math.sqrt(level / (1 - level)) * math.sqrt(s - s_next)


def log_probability(x_next: torch.Tensor, mean: torch.Tensor, std: float) -> torch.Tensor:
    """(B,) log-density of `x_next` under a Gaussian around `mean`, the mean over dimensions."""
    each = -0.5 * ((x_next - mean) / std).square() - math.log(std) - 0.5 * math.log(2 * math.pi)
    return each.flatten(1).mean(1)


def gaussian_kl(mean: torch.Tensor, other: torch.Tensor, std: float) -> torch.Tensor:
    """(B,) KL divergence of two Gaussian steps with one standard deviation, the mean over dimensions."""
    return 0.5 * ((mean - other) / std).square().flatten(1).mean(1)
