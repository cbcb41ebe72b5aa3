"""What nodes of ComfyUI and of other packs may ask of a diffusion model and this one cannot do.

Such a request is refused by the name of what asks. Ignored, it would give an image that looks as if it had worked.
"""

from collections.abc import Callable, Mapping

import torch

from ...blip3o_core.checks import require_finite
from ...blip3o_core.errors import Blip3oError

# Entries of a condition that other models read -> who sets them, and what to do.
_CONDITION = {
    "control": "a ControlNet, and there is none for this model. Remove Apply ControlNet. To keep the composition of an "
    "image, connect it to BLIP3o Edit-Reference Encoder",
    "gligen": "GLIGEN boxes. Remove the GLIGEN node and describe the places in the prompt",
    "unclip_conditioning": "an image for unCLIP. Remove unCLIPConditioning and connect the image to BLIP3o "
    "Edit-Reference Encoder",
    "guidance": "a guidance for Flux. Remove FluxGuidance and set the guidance of the sampler (KSampler: cfg)",
    "reference_latents_method": "a reference method for Flux. Remove FluxKontextMultiReferenceLatentMethod; here "
    "reference_mode of BLIP3o Hidden-State Conditioner chooses",
}
# Entries of transformer_options that networks of other models act on.
_OPTIONS = {
    "optimized_attention_override": "another attention function",
    "rope_options": "other rotary positions (this model has none)",
    "audio_embeds": "audio",
    "ar_config": "frames one after the other",
    "chroma_radiance_options": "options of Chroma Radiance",
}
AREA_CELL = 8  # pixels: the unit of ConditioningSetArea, whatever the model


def refuse_patches(options: Mapping) -> None:
    """Raise Blip3oError if `options`, the host's transformer_options, change the inside of the network."""
    for name, what in _OPTIONS.items():
        if options.get(name) is not None:
            raise _patch(what, name, options[name] if callable(options[name]) else None)
    for kind, patches in options.get("patches", {}).items():
        if patches:
            raise _patch("a change inside the network", kind, patches[0])
    for kind, replacements in options.get("patches_replace", {}).items():
        if replacements:
            raise _patch("another block or attention", kind, next(iter(replacements.values())))


def _patch(what: str, kind: str, patch) -> Blip3oError:
    source = "" if patch is None else f" of {_source(patch)}"
    return Blip3oError(
        f"A node between BLIP3o Loader and the sampler asks for {what}: {kind}{source}. This diffusion transformer "
        "(SANA) cannot do that. Remove the node, or bypass it. Nodes that change the guidance, the sampling or the "
        "whole call, such as EasyCache, work."
    )


def _source(patch: Callable) -> str:
    """The class that made a patch, in most cases the node's, and its module."""
    name = getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0]
    module = getattr(patch, "__module__", None) or type(patch).__module__
    return f"{name} ({module.rpartition('.')[2]})"


def refuse_unused(condition: Mapping) -> None:
    """Raise Blip3oError if a condition carries what this model does not read."""
    for name, sentence in _CONDITION.items():
        if condition.get(name) is not None:
            raise Blip3oError(f"The conditioning carries {sentence}.")


def check_area_unit(condition: Mapping, cell: int) -> None:
    """Raise Blip3oError if a condition, as nodes made it, has an area that the host would misread.

    The host takes an area in cells of 8 pixels for one in cells of the latent. `cell`: pixels of those.
    """
    area = condition.get("area")
    if area and area[0] != "percentage" and cell != AREA_CELL:
        raise Blip3oError(
            f"The conditioning has an area in cells of {AREA_CELL} pixels, but a cell of this model has {cell}, so it "
            "would cover another part of the image. Use ConditioningSetAreaPercentage instead of ConditioningSetArea."
        )


def check_area(condition: Mapping, height: int, width: int) -> None:
    """Raise Blip3oError if the area of a condition, in cells, lies outside a latent of `height` x `width` cells."""
    area = condition.get("area")
    if area is None:
        return
    y, x = area[len(area) // 2 :][-2:]
    if not (0 <= y < height and 0 <= x < width):
        raise Blip3oError(
            f"The area of a conditioning begins at {x / width:.0%} of the image's width and {y / height:.0%} of its "
            "height, which is outside the image. Lower x and y, or choose a larger image."
        )


def check_tokens(tokens: torch.Tensor | None, mask: torch.Tensor | None, width: int) -> None:
    """Raise Blip3oError unless `tokens` (B, N, `width`) and their `mask` (B, N or fewer), if any, fit together."""
    if tokens is None or tokens.ndim != 3 or tokens.shape[-1] != width:
        found = "has none" if tokens is None else f"has tokens of shape {tuple(tokens.shape)}"
        found = f"has tokens of width {tokens.shape[-1]}" if tokens is not None and tokens.ndim == 3 else found
        raise Blip3oError(
            f"This model needs cross-attention tokens of width {width}, but the conditioning {found}. Connect BLIP3o "
            "Hidden-State Conditioner, with the language model of the same checkpoint."
        )
    if mask is not None and (mask.ndim != 2 or mask.shape[1] > tokens.shape[1]):
        raise Blip3oError(
            f"The attention mask of the conditioning has shape {tuple(mask.shape)}, but its tokens have shape "
            f"{tuple(tokens.shape)}. Connect BLIP3o Hidden-State Conditioner instead."
        )


def check_dimensions(latent: torch.Tensor) -> None:
    """Raise Blip3oError unless `latent` is one of images, (B, C, h, w)."""
    if latent.ndim != 4 or latent.numel() == 0:
        raise Blip3oError(
            f"The latent has shape {tuple(latent.shape)}, but this model needs (batch, channels, height, width). "
            "Connect a latent of images, such as Empty Latent Image."
        )


def check_latent(noise: torch.Tensor, latent: torch.Tensor | None, channels: int) -> None:
    """Raise Blip3oError unless `noise` is like latents of images with `channels`, and `latent` is finite."""
    check_dimensions(noise)
    if noise.shape[1] != channels:
        raise Blip3oError(
            f"The latent has {noise.shape[1]} channels, but this model needs {channels}. Encode the image with the VAE "
            "of this checkpoint, or start from Empty Latent Image."
        )
    if latent is not None:
        require_finite(latent, "The latent that the sampler starts from", "Make it again, or use Empty Latent Image.")
