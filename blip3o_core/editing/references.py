"""The reference images of an edit, encoded once, and what rendering an edit needs besides its tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..diffusion.reference_mode import ReferenceMode, Strengths
from ..diffusion.sampler import Inpaint
from ..errors import Blip3oError
from ..images.limits import MAX_SIDE
from ..images.preprocess import tokenizer_input, vae_input
from ..models.image_tokenizer import ImageTokenizer, encode_images
from ..prompts.vocabulary import CodesId
from .masks import check_fit, check_mask, latent_mask

MAX_REFERENCES = 8


@dataclass(frozen=True)
class References:
    """One to eight images that an edit starts from, encoded once. All tensors are on the CPU."""

    codes: torch.Tensor  # (n, T) int64
    grid: tuple[int, int]
    latents: list[torch.Tensor]  # (1, C, h, w) each, unscaled, at the image's own aspect ratio
    codes_id: CodesId
    sizes: list[tuple[int, int]]  # (width, height) of the images, in pixels
    vae_sizes: list[tuple[int, int]]  # (width, height) that the autoencoder saw, in pixels
    fit: str
    features: torch.Tensor | None = None  # (n, T, width) of the image tokenizer

    def __len__(self) -> int:
        return len(self.codes)

    def summary(self) -> list[str]:
        """One line for each image: its size, and what it was resized to."""
        resized = {"pad": "padded to a square, then resized to", "crop": "its middle square, resized to"}
        verb, cells = resized.get(self.fit, "stretched to"), "x".join(map(str, reversed(self.grid)))
        return [
            f"image {k}: {size[0]}x{size[1]} pixels; tokens: {verb} {cells} codes; latent: {seen[0]}x{seen[1]} pixels"
            for k, (size, seen) in enumerate(zip(self.sizes, self.vae_sizes, strict=True), 1)
        ]


@dataclass(frozen=True)
class Framing:
    """How images of any size become what the two encoders see; see `images.preprocess`."""

    fit: str
    resolution: int  # pixels on a side of what the autoencoder sees of a square image
    multiple: int  # pixels that its sides are a multiple of

    def __post_init__(self):
        multiple, resolution = self.multiple, self.resolution
        if not multiple <= resolution <= MAX_SIDE or resolution % multiple:
            nearest = min(max(multiple, round(resolution / multiple) * multiple), MAX_SIDE // multiple * multiple)
            raise Blip3oError(
                f"resolution is {resolution}. It must be a multiple of {multiple} pixels and at most {MAX_SIDE}. "
                f"Nearest: {nearest}."
            )


@dataclass(frozen=True)
class EditInputs:
    """What rendering an edit needs besides its tokens. Raises Blip3oError for a mask that does not fit the image."""

    references: References
    strengths: Strengths = Strengths()
    mode: ReferenceMode | None = None  # None: everything that the checkpoint supports
    change_mask: torch.Tensor | None = None  # (H, W) in [0, 1]: where the first image may change; None: everywhere

    def __post_init__(self):
        if self.change_mask is not None:
            check_fit(self.references.fit)
            check_mask(self.change_mask, self.references.sizes[0])

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        """(width, height) to render, in pixels: the first image's unless another one is asked for."""
        first = self.references.vae_sizes[0]
        if self.change_mask is not None and asked not in (None, first):
            raise Blip3oError(
                f"size is {asked[0]}x{asked[1]}, but an edit with a mask needs the size at which the first image was "
                f"encoded, {first[0]}x{first[1]}. Leave size out, or leave the mask out."
            )
        return asked or first

    def inpaint(self, scaling_factor: float) -> Inpaint | None:
        """What keeps the first image outside the mask. `scaling_factor`: the autoencoder's."""
        if self.change_mask is None:
            return None
        source = self.references.latents[0] * scaling_factor
        return Inpaint(source, latent_mask(self.change_mask, source.shape[-2:]))


def encode_references(
    tokenizer: ImageTokenizer,
    to_latents: Callable[[torch.Tensor], torch.Tensor],
    images: list,
    framing: Framing,
    codes_id: CodesId,
    device: torch.device | str = "cpu",
) -> References:
    """PIL images -> References. Raises Blip3oError for no image, more than eight, and sizes that cannot be encoded.

    `to_latents`: (1, H, W, 3) in [0, 1] -> (1, C, h, w) unscaled. `device`: where a host computes that keeps the
    tokenizer's weights elsewhere.
    """
    if not 1 <= len(images) <= MAX_REFERENCES:
        raise Blip3oError(f"There are {len(images)} reference images. An edit takes 1 to {MAX_REFERENCES}.")
    # Sizes first: nothing is encoded when one of them cannot be.
    seen = [vae_input(image, framing.fit, framing.resolution, framing.multiple) for image in images]
    squares = torch.cat([tokenizer_input(image, framing.fit, tokenizer.image_size) for image in images])
    codes, features = encode_images(tokenizer, squares.to(device), features=True)
    return References(
        codes=codes,
        grid=tokenizer.config.grid,
        latents=[to_latents(pixels).float().cpu() for pixels in seen],
        codes_id=codes_id,
        sizes=[image.size for image in images],
        vae_sizes=[(pixels.shape[2], pixels.shape[1]) for pixels in seen],
        fit=framing.fit,
        features=features,
    )
