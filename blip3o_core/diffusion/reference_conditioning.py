"""The network call with the references of an edit, as `reference_mode` describes their uses.

- cross: reference tokens are appended to the condition. In rows of the null condition they are zeros.
- noise: references stand to the right of the noisy latents, without noise, in both halves of guidance. Only the left
  part of the prediction is used.

Source: docs/reference.md, section 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import Blip3oError
from ..models.connector import build_connector
from ..seeds import seeded
from .reference_mode import ReferenceMode, Strengths

_MASKED = -10000.0  # what diffusers adds to the scores of attention where it may not look


@dataclass(frozen=True)
class ReferenceConditioning:
    """References as the network needs them; without latents it is the plain network call.

    `latents`: scaled, (B or 1, C, any height and width) each. `connector` turns latents into cross-attention tokens,
    on the device and in the dtype of the noisy latents.
    """

    latents: Sequence[torch.Tensor] = ()
    mode: ReferenceMode = ReferenceMode()
    strengths: Strengths = Strengths()
    connector: torch.nn.Module | None = None

    def predict_velocity(
        self,
        transformer,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
        is_null: torch.Tensor,
        **more,
    ) -> torch.Tensor:
        """The velocity of `x` (B, C, h, w) under `context` (B, N, width) and the references, like `x`.

        `mask` (B, N): nonzero where attention may look; None: everywhere. `is_null` (B,) bool: rows of the null
        condition. References of another height than `x` are resized to it where they stand next to it. `more`: other
        arguments of the network.
        """
        latents = self._latents_for(x)
        inputs = {"timestep": timestep, "encoder_hidden_states": context, "encoder_attention_mask": mask, **more}
        if latents and self.mode.cross and self.strengths.cross > 0:
            parts = [reference_tokens(self.connector, latent[:, None]) for latent in latents]
            tokens = torch.cat(parts, dim=1).masked_fill(is_null[:, None, None], 0)
            inputs["encoder_hidden_states"] = append_reference_tokens(context, tokens)[0]
            inputs["encoder_attention_mask"] = _attention_bias(context, mask, tokens.shape[1], self.strengths.cross)
        if not (latents and self.mode.noise and self.strengths.noise > 0):
            return transformer(x, return_dict=False, **inputs)[0]
        resized = [_resize_to_height(latent, x.shape[-2]) for latent in latents]
        with_references = predict_side_by_side(transformer, x, resized, **inputs)
        if self.strengths.noise == 1:
            return with_references
        return torch.lerp(transformer(x, return_dict=False, **inputs)[0], with_references, self.strengths.noise)

    def _latents_for(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The references as many times as `x` has rows: with guidance the rows of a batch come twice."""
        rows = len(x)
        if any(rows % len(latent) for latent in self.latents):
            raise Blip3oError(
                f"The reference latents have {[len(latent) for latent in self.latents]} rows, the noise has {rows}. "
                "Give one reference latent for all images, or one for each."
            )
        return [latent.to(x).repeat(rows // len(latent), 1, 1, 1) for latent in self.latents]


def new_connector(channels: int, width: int, seed: int) -> torch.nn.Sequential:
    """An untrained reference connector, initialised as small as the authors do."""
    connector, generator = build_connector(channels, width), seeded(seed)
    for layer in (connector[0], connector[2]):
        torch.nn.init.xavier_uniform_(layer.weight, gain=0.1, generator=generator)
        torch.nn.init.zeros_(layer.bias)
    return connector


def reference_tokens(connector: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents (B, R, C, h, w) -> cross-attention tokens (B, R * h * w, width)."""
    return connector(latents.movedim(2, -1).flatten(1, 3))


def append_reference_tokens(
    condition: torch.Tensor, tokens: torch.Tensor, present: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Condition (B, N, width) and reference tokens (B, R * h * w, width) -> both, and a mask (B, N + R * h * w).

    `present` (B, R) bool: references that a row really has. None, and no mask, when all rows have all. Tokens of the
    null condition are zeros and are attended to.
    """
    context = torch.cat([condition, tokens.to(condition.dtype)], dim=1)
    if present is None or bool(present.all()):
        return context, None
    per_reference = tokens.shape[1] // present.shape[1]
    visible = present.new_ones(condition.shape[:2])
    return context, torch.cat([visible, present.repeat_interleave(per_reference, dim=1)], dim=1)


def predict_side_by_side(transformer, x: torch.Tensor, references: list[torch.Tensor], **inputs) -> torch.Tensor:
    """The prediction for `x` (B, C, h, w) with `references` (B, C, h, any width) to its right.

    `inputs`: the other arguments of the network. Each part gets the positions of a single image, because diffusers
    would stretch its position table over the whole width. The published model has no positions.
    """
    beside = [reference.to(x.dtype) for reference in references]
    if transformer.config.interpolation_scale is not None:
        return transformer(x, beside=beside, return_dict=False, **inputs)[0]
    return transformer(torch.cat([x, *beside], dim=-1), return_dict=False, **inputs)[0][..., : x.shape[-1]]


def _attention_bias(
    context: torch.Tensor, mask: torch.Tensor | None, added: int, strength: float
) -> torch.Tensor | None:
    """(B, 1, N + added) for the scores of attention: the added tokens get `strength` times their weight."""
    if mask is None and strength == 1:
        return None
    bias = context.new_zeros(context.shape[:2]) if mask is None else (1 - mask.to(context)) * _MASKED
    return torch.cat([bias, bias.new_full((len(bias), added), math.log(strength))], dim=1)[:, None]


def _resize_to_height(latents: torch.Tensor, height: int) -> torch.Tensor:
    if latents.shape[-2] == height:
        return latents
    width = max(1, round(latents.shape[-1] * height / latents.shape[-2]))
    return F.interpolate(latents.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
