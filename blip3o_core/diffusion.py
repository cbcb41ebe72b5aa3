"""The diffusion transformer: SANA under flow matching, plain Euler (reference.md 5).

- Model output v = noise - x0; x <- x + (sigma_next - sigma) * v; the network is told t = 1000 * sigma.
- Sigmas and the latent stay float32; the network computes in its own dtype.
- Noise comes from CPU generators in float32, one per row, so a seed means the same picture on every device.
"""

import math
from collections.abc import Callable

import torch

from .errors import Blip3oError


def build(config: dict):
    """diffusers' SanaTransformer2DModel from its config.json."""
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel.from_config(config)


def sigmas(steps: int, shift: float = 1.0, denoise: float = 1.0) -> torch.Tensor:
    """(steps + 1,) float32: linspace(1, 1/N, N), shifted by s*x / (1 + (s-1)*x), then 0.

    `denoise` < 1 takes the last `steps` of N = int(steps / denoise), as the host's samplers do.
    """
    if steps < 1:
        raise Blip3oError(f"steps is {steps}; a picture needs at least 1, 30 is the reference's number.")
    if not (0 < denoise <= 1 and shift > 0):
        raise Blip3oError(f"denoise is {denoise} and shift {shift}; denoise must be in (0, 1], shift above 0.")
    total = int(steps / denoise)
    line = torch.linspace(1, 1 / total, total, dtype=torch.float64).float()
    line = shift * line / (1 + (shift - 1) * line)
    return torch.cat([line, line.new_zeros(1)])[-(steps + 1) :]


def initial_noise(shape: tuple[int, int, int], seeds: list[int]) -> torch.Tensor:
    """(C, h, w) and one seed per row -> (B, C, h, w) float32 standard normal on the CPU."""
    return torch.stack(
        [torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed))[0] for seed in seeds]
    )


def check_guidance(guidance: float) -> None:
    """Raise Blip3oError for a guidance scale that no picture can be drawn with."""
    if not 0 <= guidance < math.inf:
        raise Blip3oError(f"guidance is {guidance}; it must be 0 or more, 2 is the reference's, 1 turns it off.")


@torch.no_grad()
def sample(
    transformer,
    noise: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    schedule: torch.Tensor,
    guidance: float = 2.0,
    mask: torch.Tensor | None = None,
    callback: Callable[[int, int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Noise (B, C, h, w) and conditions (B, N, width) -> scaled latents (B, C, h, w), float32.

    Guidance is u + g * (c - u); at g = 1 the null half is not computed. `mask` (B, N) bool: cross-attention tokens that
    count. `callback(step, steps, x0 estimate)` runs after each step and may raise to cancel.
    """
    check_guidance(guidance)
    dtype, device = transformer.dtype, transformer.device
    guided = guidance != 1.0
    context = (torch.cat([negative, positive]) if guided else positive).to(device, dtype)
    if mask is not None:
        mask = (torch.cat([mask, mask]) if guided else mask).to(device)
    x, schedule = noise.to(device, torch.float32), schedule.to(device, torch.float32)
    steps = len(schedule) - 1
    for step, (sigma, following) in enumerate(zip(schedule[:-1], schedule[1:], strict=True)):
        doubled = (torch.cat([x, x]) if guided else x).to(dtype)
        v = transformer(
            doubled,
            encoder_hidden_states=context,
            encoder_attention_mask=mask,
            timestep=(sigma * 1000).expand(len(doubled)),
            return_dict=False,
        )[0].float()
        if guided:
            null, conditioned = v.chunk(2)
            v = null + guidance * (conditioned - null)
        if callback is not None:
            callback(step + 1, steps, x - sigma * v)
        x = x + (following - sigma) * v
    if not bool(torch.isfinite(x).all()):
        raise Blip3oError(f"The diffusion transformer gave values that are not finite in {dtype}. Use bf16 or fp32.")
    return x
