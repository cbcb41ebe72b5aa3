"""The sampler: flow matching with Euler steps (docs/reference.md, section 5).

- The network predicts the velocity v = noise - x0. A step is x <- x + (next_sigma - sigma) * v, from sigma 1 to 0.
- The network's time is 1000 * sigma. A mean-flow network gets the sigmas of both ends of the step (`models.meanflow`).
- Sigmas and latents stay float32; the network computes in its own dtype.
- Noise comes from one CPU generator per row, so a seed means the same image on every device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..checks import require_finite
from ..decoding.cuda_graph import try_capture
from ..errors import Blip3oError, shown
from ..models.meanflow import timestep_input
from ..models.sana import KeptCondition
from ..seeds import seeded
from .reference_conditioning import ReferenceConditioning

WHOLE = (0.0, 1.0)
MAX_STEPS, MAX_SCHEDULE = 10_000, 1_000_000  # ComfyUI's own limit, and that at its smallest denoise


def sigmas(steps: int, shift: float = 1.0, denoise: float = 1.0) -> torch.Tensor:
    """(steps + 1,) float32: linspace(1, 1/N, N), shifted by s*x / (1 + (s-1)*x), then 0.

    `denoise` < 1 takes the last `steps` of N = int(steps / denoise), as ComfyUI's samplers do.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise Blip3oError(f"steps is {steps:.6g}. Use 1 to {MAX_STEPS:,}; the authors use 30.")
    if not 0 < denoise <= 1 or steps / denoise > MAX_SCHEDULE:
        raise Blip3oError(
            f"denoise is {denoise}. It must be above 0 and at most 1, and {steps} steps must be a larger part of the "
            f"schedule than 1 in {MAX_SCHEDULE // steps:,}."
        )
    if not shift > 0:
        raise Blip3oError(f"shift is {shift}. It must be above 0; 1 is as trained.")
    total = int(steps / denoise)
    line = torch.linspace(1, 1 / total, total, dtype=torch.float64).float()
    line = shift * line / (1 + (shift - 1) * line)
    return torch.cat([line, line.new_zeros(1)])[-(steps + 1) :]


def initial_noise(shape: tuple[int, int, int], seeds: list[int]) -> torch.Tensor:
    """(C, h, w) and one seed per row -> (B, C, h, w) float32 standard normal on the CPU."""
    return torch.cat([torch.randn((1, *shape), generator=seeded(seed)) for seed in seeds])


@dataclass(frozen=True)
class Conditioning:
    """What the network is conditioned on. A single row serves every row of noise."""

    positive: torch.Tensor  # (B or 1, N, width)
    negative: torch.Tensor  # like `positive`: the null condition
    mask: torch.Tensor | None = None  # (B or 1, N) bool: cross-attention tokens that count; None: all of them
    references: ReferenceConditioning = ReferenceConditioning()

    def __post_init__(self):
        for name in ("positive", "negative"):
            tokens = getattr(self, name)
            if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3 or not tokens.is_floating_point():
                found = f"{tokens.dtype} of shape {tuple(tokens.shape)}" if isinstance(tokens, torch.Tensor) else tokens
                raise Blip3oError(
                    f"The {name} conditioning is {shown(found)}. It must be a tensor (rows, tokens, width) of floating-"
                    "point numbers, as `condition` makes it."
                )

    def expanded(self, rows: int) -> "Conditioning":
        """The same for `rows` rows of noise. Raises Blip3oError when it has another number of rows, unless one."""
        mask = self.mask
        if {len(self.positive), len(self.negative)} - {1, rows} or (mask is not None and len(mask) not in (1, rows)):
            raise Blip3oError(
                f"There are {len(self.positive)} rows of conditioning and {rows} rows of noise. Give one noise seed "
                "for each row of image tokens, or a single row of image tokens for all seeds."
            )
        positive, negative = self.positive.expand(rows, -1, -1), self.negative.expand(rows, -1, -1)
        return Conditioning(positive, negative, mask if mask is None else mask.expand(rows, -1), self.references)


@dataclass(frozen=True)
class GuidanceSchedule:
    """How strong classifier-free guidance is, and in which steps: v = null + scale * (conditioned - null).

    A step without guidance does not compute the null half. Guidance in a part of the steps can give better images than
    guidance in all of them: arXiv 2404.07724.
    """

    scale: float = 2.0  # 1 is no guidance
    interval: tuple[float, float] = WHOLE  # the guided part of the schedule: 0 is its start, 1 its end
    shift: float = 1.0  # of the schedule that the interval is a part of

    def __post_init__(self):
        if not 0 <= self.scale < math.inf:  # written so that NaN fails
            raise Blip3oError(f"guidance is {self.scale}. It must be 0 or more; the authors use 2, and 1 turns it off.")
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise Blip3oError(
                f"The guidance interval is {self.interval}. It must be two numbers from 0 (the first step) to 1 (the "
                "last step), the smaller one first, such as (0.2, 0.8)."
            )

    def sigma_range(self) -> tuple[float, float]:
        """The highest and the lowest sigma with guidance; both are guided.

        A fraction p of the schedule is sigma 1 - p, shifted like the schedule, as in ComfyUI's nodes with start_percent
        and end_percent. So `denoise` does not move the interval.
        """
        start, end = (self.shift * (1 - part) / (1 + (self.shift - 1) * (1 - part)) for part in self.interval)
        # Rounding can put the first sigma of a shifted schedule a little above 1.
        return math.inf if self.interval[0] == 0 else start, end

    def guided_steps(self, schedule: torch.Tensor) -> list[bool]:
        """For each step of `schedule` (steps + 1,), whether it is guided."""
        highest, lowest = self.sigma_range()
        # Compared as ComfyUI's CFG Override does, so that a step right at an end rounds to the same side in both.
        return [self.scale != 1.0 and lowest <= sigma <= highest for sigma in schedule[:-1].tolist()]


@dataclass(frozen=True)
class Inpaint:
    """An image of which a part stays: that part is set to its own noisy value before every step, as in ComfyUI."""

    source: torch.Tensor  # (B or 1, C, h, w), scaled latents
    change_mask: torch.Tensor  # (B or 1, 1, h, w) in [0, 1]: 0 keeps the source, 1 replaces it

    def to(self, like: torch.Tensor) -> "Inpaint":
        """On the device and in the dtype of `like`."""
        return Inpaint(self.source.to(like), self.change_mask.to(like))

    def keep_in_latents(self, x: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """`x` with the part that stays at its noisy value for `sigma`."""
        return self.change_mask * x + (1 - self.change_mask) * torch.lerp(self.source, noise, sigma)

    def keep_in_velocity(self, v: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """`v` with the velocity that leads from `x` to the source in the part that stays."""
        return self.change_mask * v + (1 - self.change_mask) * (x - self.source) / sigma


@torch.no_grad()
def sample(
    transformer,
    noise: torch.Tensor,
    conditioning: Conditioning,
    schedule: torch.Tensor,
    guidance: GuidanceSchedule,
    inpaint: Inpaint | None = None,
    callback: Callable[[int, int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Noise (B, C, h, w) -> scaled latents (B, C, h, w), float32, along `schedule` (steps + 1,), see `sigmas`.

    `callback(step, steps, x0 estimate)` runs after each step and may raise to cancel.
    """
    guided_steps = guidance.guided_steps(schedule)
    x = noise = noise.to(transformer.device, torch.float32)
    schedule, steps = schedule.to(x), len(schedule) - 1
    velocity = _GuidedVelocity(transformer, conditioning.expanded(len(x)), guidance.scale, guided_steps)
    inpaint = None if inpaint is None else inpaint.to(x)
    for step, (sigma, next_sigma) in enumerate(zip(schedule[:-1], schedule[1:], strict=True)):
        if inpaint is not None:
            x = inpaint.keep_in_latents(x, noise, sigma)
        v = velocity(x, sigma, next_sigma, guided_steps[step])
        if inpaint is not None:
            v = inpaint.keep_in_velocity(v, x, sigma)
        if callback is not None:
            callback(step + 1, steps, x - sigma * v)
        x = x + (next_sigma - sigma) * v
    require_finite(
        x,
        f"The latent that the diffusion transformer computed in {transformer.dtype} at guidance {guidance.scale:g}",
        "Use bf16 or fp32, or lower the guidance.",
    )
    return x


class _GuidedVelocity:
    """The network's velocity for a step, guided or not.

    Rows of the null condition come before the conditioned ones, so that a step without guidance takes the last rows.
    """

    def __init__(self, transformer, conditioning: Conditioning, scale: float, guided_steps: list[bool]):
        """`conditioning`: one row for each row of noise."""
        self._transformer, self._scale = transformer, scale
        rows, device, mask = len(conditioning.positive), transformer.device, conditioning.mask
        ever_guided = any(guided_steps)
        context = torch.cat([conditioning.negative, conditioning.positive]) if ever_guided else conditioning.positive
        context = context.to(device, transformer.dtype)
        if mask is not None:
            mask = (torch.cat([mask, mask]) if ever_guided else mask).to(device)
        is_null = torch.arange(len(context), device=device) < len(context) - rows

        def network(count: int, calls: int) -> _Network:
            """For the last `count` rows of the condition."""
            seen = None if mask is None else mask[-count:]
            return _Network(transformer, conditioning.references, context[-count:], seen, is_null[-count:], calls)

        self._guided = network(len(context), guided_steps.count(True))
        self._plain = network(rows, guided_steps.count(False))

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, next_sigma: torch.Tensor, guided: bool) -> torch.Tensor:
        network, rows = (self._guided, torch.cat([x, x])) if guided else (self._plain, x)
        v = network(rows.to(self._transformer.dtype), timestep_input(self._transformer, sigma, next_sigma, len(rows)))
        if not guided:
            return v
        null, conditioned = v.chunk(2)
        return null + self._scale * (conditioned - null)


# A recording costs about what launching one step costs. It pays where launching takes longer than computing: few cells.
RECORDED_CALLS, RECORDED_CELLS = 8, 4096


class _Network:
    """The network under one condition -> float32 velocity. On a GPU it is a CUDA graph from the second call on."""

    # The memory of the graph: what it reads, and what it writes.
    _x: torch.Tensor
    _timestep: torch.Tensor
    _v: torch.Tensor

    def __init__(self, transformer, references: ReferenceConditioning, context, mask, is_null, calls: int):
        """`calls`: how often it will be called. The rest: see `ReferenceConditioning.predict_velocity`."""
        self._transformer, self._references, self._condition = transformer, references, (context, mask, is_null)
        self._calls = calls
        # Of this run alone: others may use the network at the same time.
        self._kept = {"kept": KeptCondition()} if KeptCondition.serves(transformer) else {}
        self._replay: Callable[[], None] | None = None

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        if self._replay is not None:
            self._x.copy_(x)
            self._timestep.copy_(timestep)
            self._replay()
            return self._v
        v = self._predict(x, timestep)
        if self._recording_pays(x):
            self._x, self._timestep = x.clone(), timestep.clone()
            self._replay = try_capture(self._record, x.device)
        self._calls = 0  # recording is tried once
        return v

    def _predict(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        v = self._references.predict_velocity(self._transformer, x, timestep, *self._condition, **self._kept)
        return v.float()

    def _record(self) -> None:
        self._v = self._predict(self._x, self._timestep)

    def _recording_pays(self, x: torch.Tensor) -> bool:
        few_cells = len(x) * x.shape[-2] * x.shape[-1] <= RECORDED_CELLS
        return x.device.type == "cuda" and self._calls >= RECORDED_CALLS and few_cells
