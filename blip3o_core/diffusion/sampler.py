"""The diffusion transformer: SANA under flow matching, plain Euler (reference.md 5).

- Model output v = noise - x0; x <- x + (sigma_next - sigma) * v; the network is told t = 1000 * sigma
  (a few-step one the sigmas of both ends of the step, `meanflow`).
- Sigmas and the latent stay float32; the network computes in its own dtype.
- Noise comes from CPU generators in float32, one per row, so a seed means the same picture on every device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..decoding.cuda_graph import try_capture
from ..errors import Blip3oError
from ..models.meanflow import timestep_input
from ..seeds import seeded
from .condition_cache import cache_condition_projections
from .reference_mode import ReferenceMode, Strengths, predict


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
    return torch.cat([torch.randn((1, *shape), generator=seeded(seed)) for seed in seeds])


def check_guidance(guidance: float) -> None:
    """Raise Blip3oError for a guidance scale that no picture can be drawn with."""
    if not 0 <= guidance < math.inf:
        raise Blip3oError(f"guidance is {guidance}; it must be 0 or more, 2 is the reference's, 1 turns it off.")


WHOLE = (0.0, 1.0)


def guided_sigmas(interval: tuple[float, float], shift: float = 1.0) -> tuple[float, float]:
    """The part of a schedule that is guided, (start, end) -> the highest and the lowest sigma with guidance.

    0 is the start of a whole schedule, however late `denoise` begins, and 1 its end. A fraction p stands for sigma
    1 - p, shifted like the schedule, as in ComfyUI's nodes with start_percent and end_percent; both ends count. Raises
    Blip3oError unless 0 <= start <= end <= 1. Why less can be better: arXiv 2404.07724, abstract.
    """
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise Blip3oError(
            f"The guidance interval is {interval}; it must be two numbers from 0, the first step, to 1, the last, the "
            "smaller one first: (0.2, 0.8)."
        )
    start, end = (shift * (1 - part) / (1 + (shift - 1) * (1 - part)) for part in interval)
    # Rounded, the first sigma of a shifted schedule can be a little more than 1.
    return math.inf if interval[0] == 0 else start, end


@dataclass(frozen=True)
class ReferenceConditioning:
    """References for `sample`, scaled latents (B or 1, C, any height and width), and how they reach the network."""

    latents: list[torch.Tensor]
    mode: ReferenceMode
    strengths: Strengths = Strengths()
    connector: torch.nn.Module | None = None  # in the transformer's dtype


@dataclass(frozen=True)
class Inpaint:
    """A picture of which a part stays."""

    source: torch.Tensor  # (B or 1, C, h, w), scaled
    change_mask: torch.Tensor  # (B or 1, 1, h, w) in [0, 1]: 0 stays, 1 is drawn anew


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
    references: ReferenceConditioning | None = None,
    inpaint: Inpaint | None = None,
    interval: tuple[float, float] = WHOLE,
    shift: float = 1.0,
) -> torch.Tensor:
    """Noise (B, C, h, w) and conditions (B or 1, N, width) -> scaled latents (B, C, h, w), float32.

    One row of conditions serves every row of noise: the same tokens under several seeds.
    Guidance is u + g * (c - u); at g = 1 the null half is not computed. `mask` (B, N) bool: cross-attention tokens that
    count. `callback(step, steps, x0 estimate)` runs after each step and may raise to cancel.
    What stays of the source of `inpaint` is set to its own noisy value before every step, as the host's samplers do.
    `interval`: the part of the schedule that is guided, see `guided_sigmas`; outside it the null half is not computed.
    `shift`: the schedule's, by which `interval` is read.
    """
    check_guidance(guidance)
    highest, lowest = guided_sigmas(interval, shift)
    # Compared as ComfyUI's CFG Override does, so that a step right at an end rounds to the same side in both.
    guided_steps = [guidance != 1.0 and lowest <= sigma <= highest for sigma in schedule[:-1].tolist()]
    rows = len(noise)
    if {len(positive), len(negative)} - {1, rows} or (mask is not None and len(mask) not in (1, rows)):
        raise Blip3oError(
            f"{len(positive)} rows of conditioning for {rows} rows of noise: give one noise seed per picture, or one "
            "picture of tokens for all seeds."
        )
    positive, negative = positive.expand(rows, -1, -1), negative.expand(rows, -1, -1)
    mask = mask if mask is None else mask.expand(rows, -1)
    dtype, device = transformer.dtype, transformer.device
    ever_guided = any(guided_steps)
    context = (torch.cat([negative, positive]) if ever_guided else positive).to(device, dtype)
    if mask is not None:
        mask = (torch.cat([mask, mask]) if ever_guided else mask).to(device)
    x, schedule = noise.to(device, torch.float32), schedule.to(device, torch.float32)
    noise, steps = x, len(schedule) - 1
    references = references or ReferenceConditioning([], ReferenceMode())
    is_null = torch.arange(len(context), device=device) < len(context) - rows
    if inpaint is not None:
        source, change_mask = inpaint.source.to(x), inpaint.change_mask.to(x)

    def network(count: int) -> _Network:
        """For the last `count` rows of the condition: all of them, or without the null half."""
        seen = None if mask is None else mask[-count:]
        return _Network(
            transformer, context[-count:], seen, is_null[-count:], references, _calls(guided_steps, count > rows)
        )

    networks = {True: network(len(context)), False: network(rows)}
    with cache_condition_projections(transformer):
        for step, (sigma, next_sigma, guided) in enumerate(zip(schedule[:-1], schedule[1:], guided_steps, strict=True)):
            if inpaint is not None:
                x = change_mask * x + (1 - change_mask) * torch.lerp(source, noise, sigma)
            doubled = (torch.cat([x, x]) if guided else x).to(dtype)
            v = networks[guided](doubled, timestep_input(transformer, sigma, next_sigma, len(doubled)))
            if guided:
                null, conditioned = v.chunk(2)
                v = null + guidance * (conditioned - null)
            if inpaint is not None:
                v = change_mask * v + (1 - change_mask) * (x - source) / sigma
            if callback is not None:
                callback(step + 1, steps, x - sigma * v)
            x = x + (next_sigma - sigma) * v
    if not bool(torch.isfinite(x).all()):
        raise Blip3oError(
            f"The diffusion transformer gave values that are not finite in {dtype} at guidance {guidance:g}. Use bf16 "
            "or fp32, or less guidance."
        )
    return x


def _calls(guided_steps: list[bool], guided: bool) -> int:
    return sum(each == guided for each in guided_steps)


# A recording costs about what launching one step costs. It pays where launching takes longer than computing: few cells.
RECORDED_CALLS, RECORDED_CELLS = 8, 4096


class _Network:
    """One evaluation of the network, float32 velocity. On a card repeated as a CUDA graph after the first."""

    def __init__(self, transformer, context, mask, null, references: ReferenceConditioning, calls: int):
        """`calls`: how often it will be asked."""
        self._transformer, self._calls, self._repeat = transformer, calls, None
        self._inputs = {
            "context": context, "mask": mask, "latents": references.latents, "null": null, "mode": references.mode,
            "strengths": references.strengths, "connector": references.connector,
        }  # fmt: skip

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        if self._repeat is not None:
            self._x.copy_(x)
            self._timestep.copy_(timestep)
            self._repeat()
            return self._v
        v = predict(self._transformer, x, timestep, **self._inputs).float()
        if x.device.type == "cuda" and self._pays(x):
            self._x, self._timestep = x.clone(), timestep.clone()
            self._repeat = try_capture(self._fill, x.device)
        self._calls = 0  # it is not tried again
        return v

    def _fill(self) -> None:
        self._v = predict(self._transformer, self._x, self._timestep, **self._inputs).float()

    def _pays(self, x: torch.Tensor) -> bool:
        return self._calls >= RECORDED_CALLS and len(x) * x.shape[-2] * x.shape[-1] <= RECORDED_CELLS
