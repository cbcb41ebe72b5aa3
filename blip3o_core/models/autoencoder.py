"""DC-AE: latents <-> images. Latents are unscaled here; the diffusion works on `latent * scaling_factor`."""

from collections.abc import Callable

import torch

from ..checks import require_finite
from ..errors import Blip3oError, shown
from .known_fields import known_fields

# ComfyUI scales its previews to 512 pixels. From 1024 to 1 on they have no height, which ends the server.
MAX_ASPECT = 64


class NoEncoder(torch.nn.Module):
    """In place of the encoder of a checkpoint that was saved without one: images are generated, none is encoded."""

    def forward(self, _) -> torch.Tensor:
        raise Blip3oError(
            "The autoencoder of this checkpoint has no encoder, so it cannot encode images. Text to image works; to "
            "edit an image, use a checkpoint whose autoencoder has its encoder."
        )


def build(config: dict, decoder_only: bool = False):
    """diffusers' AutoencoderDC from its config.json. `decoder_only`: see `NoEncoder`."""
    from diffusers import AutoencoderDC

    network = AutoencoderDC.from_config(known_fields(config, AutoencoderDC))
    if decoder_only:
        network.encoder = NoEncoder()
    return network


def compression(config: dict) -> int:
    """Pixels per latent cell along one side (32 in the published model)."""
    return 2 ** (len(config["decoder_block_out_channels"]) - 1)


def check_aspect(width: int, height: int) -> None:
    """Raise Blip3oError for an image so far from square that a small one of the same shape would have no height."""
    if 0 < MAX_ASPECT * min(width, height) < max(width, height):
        raise Blip3oError(
            f"The size is {_shown(width, height)}. The longer side may be at most {MAX_ASPECT} times the shorter one. "
            "Choose another size."
        )


def check_size(width: int, height: int, multiple: int) -> None:
    """Raise Blip3oError unless both sides in pixels are positive multiples of `multiple` (compression * patch size)."""
    check_aspect(width, height)
    if width <= 0 or height <= 0 or width % multiple or height % multiple:
        least = multiple * max(1, -(-max(width, height) // (MAX_ASPECT * multiple)))
        nearest = [max(least, round(side / multiple) * multiple) for side in (width, height)]
        raise Blip3oError(
            f"The size is {_shown(width, height)}, but width and height must be multiples of {multiple} pixels. "
            f"Nearest: {_shown(*nearest)}."
        )


def _shown(width: int, height: int) -> str:
    return f"{shown(width, 20)}x{shown(height, 20)}"


@torch.no_grad()
def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) unscaled latents -> (B, H, W, 3) float32 in [0, 1].

    One row at a time: at 1024 x 1024 the decoder's activations take gigabytes for each image.
    """
    pixels = torch.cat([vae.decode(row).sample for row in latents.to(vae.dtype).split(1)])
    require_finite(
        pixels, f"The image that the autoencoder decoded in {vae.dtype}", "Use bf16 or fp32: it overflows in fp16."
    )
    return (pixels.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)


@torch.no_grad()
def encode(vae, images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) in [0, 1] -> (B, C, h, w) unscaled latents. Deterministic: DC-AE has no noise."""
    return vae.encode((images.movedim(-1, 1) * 2 - 1).to(vae.dtype)).latent


@torch.no_grad()
def preview_factors(
    encode: Callable[[torch.Tensor], torch.Tensor], factor: int, channels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear map from an unscaled latent cell to its mean colour in [-1, 1]: (C, 3) factors and (3,) bias.

    `encode`: (B, H, W, 3) in [0, 1] -> latents (B, C, h, w). `factor`: pixels per cell along one side. Ridge regression
    on synthetic images of 2 x 2 cells, smooth random fields of colours, so that every checkpoint gets its own factors.
    """
    generator, side = torch.Generator("cpu").manual_seed(0), 2 * factor
    knots = torch.rand(max(16, channels), 3, 2, 2, generator=generator) * 2 - 1
    images = torch.nn.functional.interpolate(knots, size=(side, side), mode="bilinear", align_corners=False)
    latents = encode((images.movedim(1, -1) + 1) / 2).float().cpu()
    colours = torch.nn.functional.adaptive_avg_pool2d(images, (2, 2))
    x = latents.movedim(1, -1).flatten(0, 2).double()
    y = colours.movedim(1, -1).flatten(0, 2).double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    ridge = (1e-3 * x.pow(2).sum(0).mean()).clamp(min=1e-6) * torch.eye(x.shape[1], dtype=x.dtype)
    factors = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
    return factors.float(), (mean_y - mean_x @ factors).float()
