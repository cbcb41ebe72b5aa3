"""The references of an edit, and how they reach the diffusion transformer besides in the prompt (reference.md 6).

- cross: their latents, through a connector of their own, stand behind the condition. Null: zeros behind the connector.
- noise: they lie to the right of the noisy latents, clean, also in the null half of guidance; of what is predicted the
  left part counts.
- features: the image tokenizer's features in the prompt, in the place of tokens.

Strengths are this project's. 1 is the authors' number, 0 is as if the way were not there: `cross` multiplies the weight
that attention gives to the references' tokens, `noise` blends the predictions with and without the pictures beside.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ..errors import Blip3oError
from ..models.connector import build_connector
from ..seeds import seeded

_MASKED = -10000.0  # what diffusers adds where attention may not look


@dataclass(frozen=True)
class ReferenceMode:
    """The ways a checkpoint uses, as its config.json says (reference.md 6.7)."""

    cross: bool = False
    noise: bool = False
    features: bool = False

    @classmethod
    def from_switches(cls, switches: dict[str, bool]) -> "ReferenceMode":
        return cls(
            cross=switches["use_und_image_vae"] and not switches["only_use_und_image_vae_as_noise"],
            noise=switches["use_und_image_vae_as_noise"],
            features=switches["use_tar_siglip_features"],
        )

    def select(self, name: str, strengths: "Strengths", where: str) -> tuple[str, "ReferenceMode"]:
        """The name and the meaning of an option of REFERENCE_MODES; "auto" is everything this checkpoint supports.

        Raises Blip3oError for a path that the checkpoint lacks, and for a strength of one that is not taken.
        """
        if name == "auto":
            name = next(
                key
                for key, way in REFERENCE_MODES.items()
                if way and (way.cross, way.noise) == (self.cross, self.noise)
            )
        asked = replace(REFERENCE_MODES[name], features=self.features)
        for way, switches in (
            ("cross", "use_und_image_vae without only_use_und_image_vae_as_noise"),
            ("noise", "use_und_image_vae_as_noise"),
        ):
            if getattr(asked, way) and not getattr(self, way):
                raise Blip3oError(
                    f"{where} has no {way} path for references: that takes {switches} in its config.json. "
                    "BLIP3o-NEXT-edit-VAE has both; with this checkpoint references go as tokens in the prompt."
                )
            strength = getattr(strengths, way)
            if strength != 1 and not getattr(asked, way):
                raise Blip3oError(
                    f"The {way} strength is {strength:g}, but references do not go that way (paths: {name}). Leave it "
                    "at 1, or use a checkpoint and paths that have it."
                )
        return name, asked


# How references reach the diffusion transformer besides as tokens, by the names that users choose from.
REFERENCE_MODES = {
    "auto": None, "tokens": ReferenceMode(), "cross": ReferenceMode(cross=True), "noise": ReferenceMode(noise=True),
    "both": ReferenceMode(cross=True, noise=True),
}  # fmt: skip


@dataclass(frozen=True)
class Strengths:
    """Of the condition and of the ways of the references; see the module."""

    text: float = 1.0  # between the null condition (0) and what the language model says (1)
    cross: float = 1.0
    noise: float = 1.0

    def __post_init__(self):
        for name in ("text", "cross", "noise"):
            if not 0 <= getattr(self, name) <= 10:  # written so that NaN fails
                raise Blip3oError(f"strength of {name} is {getattr(self, name)}; it must be 0 to 10, 1 is as trained.")


def new_connector(channels: int, width: int, seed: int) -> torch.nn.Sequential:
    """A reference connector that has learnt nothing, with the authors' small start."""
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
    """Condition (B, N, width) with the references' tokens behind it, and the mask (B, N + R * h * w) of what counts.

    `present` (B, R) bool: references that are there; None, and no mask, when all are. The null condition is extended by
    zeros, which count.
    """
    context = torch.cat([condition, tokens.to(condition.dtype)], dim=1)
    if present is None or bool(present.all()):
        return context, None
    condition_mask = present.new_ones(condition.shape[:2])
    return context, torch.cat(
        [condition_mask, present.repeat_interleave(tokens.shape[1] // present.shape[1], dim=1)], dim=1
    )


def predict_side_by_side(transformer, x: torch.Tensor, references: list[torch.Tensor], **inputs) -> torch.Tensor:
    """The prediction for `x` (B, C, h, w) with `references` (B, C, h, any width) to its right; `inputs` as ever.

    Each part has the positions of one picture: diffusers' table would be stretched over all. The published model has
    no positions.
    """
    parts = [x, *(reference.to(x.dtype) for reference in references)]
    hook = None
    if transformer.config.interpolation_scale is not None:
        widths = [part.shape[-1] for part in parts]
        hook = transformer.patch_embed.register_forward_hook(lambda *call: _embed_separately(*call, widths))
    try:
        with_references = transformer(torch.cat(parts, dim=-1), return_dict=False, **inputs)[0]
    finally:
        if hook is not None:
            hook.remove()
    return with_references[..., : x.shape[-1]]


def _embed_separately(patch_embed, arguments: tuple, _, widths: list[int]) -> torch.Tensor:
    """(B, C, h, sum of widths) -> tokens (B, h * that, D), each part embedded as a picture of its own."""
    [row] = arguments
    lines = row.shape[-2] // patch_embed.patch_size
    embedded = [patch_embed.forward(part).unflatten(1, (lines, -1)) for part in row.split(widths, dim=-1)]
    return torch.cat(embedded, dim=2).flatten(1, 2)


def predict(
    transformer,
    x: torch.Tensor,
    timestep: torch.Tensor,
    context: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    latents: list[torch.Tensor],
    null: torch.Tensor,
    mode: ReferenceMode,
    strengths: Strengths,
    connector: torch.nn.Module | None,
) -> torch.Tensor:
    """The velocity of `x` (B, C, h, w) under `context` (B, N, width) and references.

    `latents`: scaled, (B or 1, C, any height and width) each.
    `mask` (B, N): nonzero where attention may look. `null` (B,) bool: rows of the null condition. References of another
    height than `x` are resampled to it where they lie beside. The connector computes where and in what `x` is.
    """
    rows = len(x)
    if any(rows % len(latent) for latent in latents):
        raise Blip3oError(
            f"Reference latents of {[len(latent) for latent in latents]} rows for {rows} rows of noise: give one row, "
            "or as many as there are pictures."
        )
    # Rows of a batch come again for the null half.
    latents = [latent.to(x).repeat(rows // len(latent), 1, 1, 1) for latent in latents]
    inputs = {"timestep": timestep, "encoder_hidden_states": context, "encoder_attention_mask": mask}
    if latents and mode.cross and strengths.cross > 0:
        parts = [reference_tokens(connector, latent[:, None]) for latent in latents]
        tokens = torch.cat(parts, dim=1).masked_fill(null[:, None, None], 0)
        inputs["encoder_hidden_states"] = append_reference_tokens(context, tokens)[0]
        inputs["encoder_attention_mask"] = _attention_bias(context, mask, tokens.shape[1], strengths.cross)
    if not (latents and mode.noise and strengths.noise > 0):
        return transformer(x, return_dict=False, **inputs)[0]
    with_references = predict_side_by_side(
        transformer, x, [_resize_to_height(latent, x.shape[-2]) for latent in latents], **inputs
    )
    if strengths.noise == 1:
        return with_references
    return torch.lerp(transformer(x, return_dict=False, **inputs)[0], with_references, strengths.noise)


def _attention_bias(
    context: torch.Tensor, mask: torch.Tensor | None, added: int, strength: float
) -> torch.Tensor | None:
    """What attention adds to its scores, (B, 1, N + added), so that the added tokens weigh `strength` times as much."""
    if mask is None and strength == 1:
        return None
    condition_mask = context.new_zeros(context.shape[:2]) if mask is None else (1 - mask.to(context)) * _MASKED
    return torch.cat(
        [condition_mask, condition_mask.new_full((len(condition_mask), added), math.log(strength))], dim=1
    )[:, None]


def _resize_to_height(latents: torch.Tensor, height: int) -> torch.Tensor:
    if latents.shape[-2] == height:
        return latents
    width = max(1, round(latents.shape[-1] * height / latents.shape[-2]))
    return F.interpolate(latents.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
