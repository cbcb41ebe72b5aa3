"""How the references of an edit reach the diffusion transformer, besides as tokens in the prompt (reference.md 6).

- cross: their latents, through a connector of their own, stand behind the condition. Null: zeros behind the connector.
- noise: the one reference lies to the right of the noisy latents, clean, also in the null half of guidance; of what is
  predicted the left half counts.
- features: the image tokenizer's features in the prompt, in the place of tokens.
"""

from dataclasses import dataclass

import torch

from .connector import build_connector
from .seeds import seeded


@dataclass(frozen=True)
class ReferencePaths:
    """The ways a checkpoint uses, as its config.json says (reference.md 6.7)."""

    cross: bool = False
    noise: bool = False
    features: bool = False

    @classmethod
    def of(cls, switches: dict[str, bool]) -> "ReferencePaths":
        return cls(
            cross=switches["use_und_image_vae"] and not switches["only_use_und_image_vae_as_noise"],
            noise=switches["use_und_image_vae_as_noise"],
            features=switches["use_tar_siglip_features"],
        )


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


def extended(
    condition: torch.Tensor, tokens: torch.Tensor, given: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Condition (B, N, width) with the references' tokens behind it, and the mask (B, N + R * h * w) of what counts.

    `given` (B, R) bool: references that are there; None, and no mask, when all are. The null condition is extended by
    zeros, which count.
    """
    context = torch.cat([condition, tokens.to(condition.dtype)], dim=1)
    if given is None or bool(given.all()):
        return context, None
    own = given.new_ones(condition.shape[:2])
    return context, torch.cat([own, given.repeat_interleave(tokens.shape[1] // given.shape[1], dim=1)], dim=1)


def beside(transformer, x: torch.Tensor, reference: torch.Tensor, **inputs) -> torch.Tensor:
    """The prediction for `x` (B, C, h, w) with `reference`, of the same shape, to its right; `inputs` as ever.

    Both halves have the positions of one picture: diffusers' table would be stretched over the two. The published
    model has no positions.
    """
    hook = None
    if transformer.config.interpolation_scale is not None:
        hook = transformer.patch_embed.register_forward_hook(_embed_halves)
    try:
        both = transformer(torch.cat([x, reference.to(x.dtype)], dim=-1), return_dict=False, **inputs)[0]
    finally:
        if hook is not None:
            hook.remove()
    return both[..., : x.shape[-1]]


def _embed_halves(patch_embed, arguments: tuple, _) -> torch.Tensor:
    """(B, C, h, 2w) -> tokens (B, h * 2w, D), each half embedded as a picture of its own."""
    [pair] = arguments
    rows = pair.shape[-2] // patch_embed.patch_size
    halves = [patch_embed.forward(half).unflatten(1, (rows, -1)) for half in pair.chunk(2, dim=-1)]
    return torch.cat(halves, dim=2).flatten(1, 2)
