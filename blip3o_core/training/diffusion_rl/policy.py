"""The velocity as training needs it: with gradients, the same for a rollout and its replay, guided or not.

The sampler of inference computes what a run keeps of its condition once; here every call computes all of it, so that
both sides of a ratio come from the same operations on the same rows.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from ...diffusion.sampler import Conditioning
from ...models.meanflow import timestep_input


@dataclass(frozen=True)
class Condition:
    """What one prompt's images are rendered from, on the CPU. All images of a group have the same one."""

    conditioning: Conditioning  # of one row
    shape: tuple[int, int, int]  # of a latent: channels, rows, columns

    @property
    def kind(self) -> tuple:
        """Rows of one kind can share a pass through the network."""
        seen, references = self.conditioning, self.conditioning.references
        latents = tuple(tuple(latent.shape) for latent in references.latents)
        return self.shape, seen.positive.shape, seen.mask is None, latents

    @property
    def nbytes(self) -> int:
        seen = self.conditioning
        return sum(one.nbytes for one in (seen.positive, seen.negative, *seen.references.latents))


def stack(conditions: Sequence[Condition]) -> Conditioning:
    """The conditioning of rows of one kind, a row for each."""
    rows = [one.conditioning for one in conditions]
    latents = [torch.cat(of_rows) for of_rows in zip(*(one.references.latents for one in rows), strict=True)]
    return Conditioning(
        torch.cat([one.positive for one in rows]),
        torch.cat([one.negative for one in rows]),
        None if rows[0].mask is None else torch.cat([one.mask for one in rows if one.mask is not None]),
        replace(rows[0].references, latents=latents),
    )


@dataclass(frozen=True)
class Velocity:
    """The network and how it is asked. `guidance` 1 is off and costs half."""

    transformer: torch.nn.Module
    guidance: float
    bf16: bool

    def __call__(self, x: torch.Tensor, s: float, s_next: float, conditioning: Conditioning) -> torch.Tensor:
        """The velocity at `x` (B, C, h, w), float32 and on the network's device, as the sampler computes it."""
        network, rows, device = self.transformer, len(x), x.device
        guided = self.guidance != 1
        context, mask = conditioning.positive, conditioning.mask
        if guided:
            context = torch.cat([conditioning.negative, context])
            mask = None if mask is None else torch.cat([mask, mask])
        is_null = torch.arange(len(context), device=device) < len(context) - rows
        sigma, next_sigma = torch.tensor(s, device=device), torch.tensor(s_next, device=device)
        timestep = timestep_input(network, sigma, next_sigma, len(context))
        dtype = network.dtype
        autocast = torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with autocast:
            v = conditioning.references.predict_velocity(
                network,
                torch.cat([x, x]).to(dtype) if guided else x.to(dtype),
                timestep,
                context.to(device, dtype),
                None if mask is None else mask.to(device),
                is_null,
            ).float()
        if not guided:
            return v
        null, conditioned = v.chunk(2)
        return null + self.guidance * (conditioned - null)
