"""The reference pictures of an edit, encoded once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import Blip3oError
from ..images.preprocess import MAX_SIDE, tokenizer_input, vae_input
from ..models.image_tokenizer import ImageTokenizer, encode_images
from ..prompts.vocabulary import CodesId

MAX_REFERENCES = 8


@dataclass(frozen=True)
class References:
    """One to eight pictures that an edit starts from, encoded once. All tensors on the CPU."""

    codes: torch.Tensor  # (n, T) int64
    grid: tuple[int, int]
    latents: list[torch.Tensor]  # (1, C, h, w) each, unscaled, at the picture's own aspect
    codes_id: CodesId
    sizes: list[tuple[int, int]]  # (width, height) of the pictures, in pixels
    views: list[tuple[int, int]]  # (width, height) that the autoencoder saw
    fit: str
    features: torch.Tensor | None = None  # (n, T, width) of the image tokenizer

    def __len__(self) -> int:
        return len(self.codes)

    def described(self) -> list[str]:
        """A line a picture: what was resized to what."""
        ways = {"pad": "padded to a square, then to", "crop": "its middle square at"}
        way, cells = ways.get(self.fit, "stretched to"), "x".join(map(str, reversed(self.grid)))
        return [
            f"image {k}: {size[0]}x{size[1]}; tokens: {way} {cells} codes; latent: {view[0]}x{view[1]} pixels"
            for k, (size, view) in enumerate(zip(self.sizes, self.views, strict=True), 1)
        ]


def encode_references(
    tokenizer: ImageTokenizer,
    to_latents: Callable[[torch.Tensor], torch.Tensor],
    pictures: list,
    *,
    fit: str,
    side: int,
    multiple: int,
    codes_id: CodesId,
    device: torch.device | str = "cpu",
) -> References:
    """PIL pictures -> References. Raises Blip3oError for none, for too many, and for sizes that cannot be drawn.

    `to_latents`: (1, H, W, 3) in [0, 1] -> (1, C, h, w) unscaled. `side`: pixels on a side of a square picture's
    latent view; `multiple`: what sides must be a multiple of. `fit`: see `images.preprocess`. `device`: where a
    host computes that keeps the tokenizer's weights elsewhere.
    """
    if not 1 <= len(pictures) <= MAX_REFERENCES:
        raise Blip3oError(f"{len(pictures)} reference pictures: an edit takes 1 to {MAX_REFERENCES}.")
    if not multiple <= side <= MAX_SIDE or side % multiple:
        nearest = min(max(multiple, round(side / multiple) * multiple), MAX_SIDE // multiple * multiple)
        raise Blip3oError(
            f"resolution is {side}; it must be a multiple of {multiple} pixels, at most {MAX_SIDE}. Nearest: {nearest}."
        )
    # Sizes first: nothing is encoded when one of them cannot be.
    views = [vae_input(picture, fit, side, multiple) for picture in pictures]
    squares = torch.cat([tokenizer_input(picture, fit, tokenizer.image_size) for picture in pictures])
    codes, features = encode_images(tokenizer, squares.to(device), features=True)
    return References(
        codes, tokenizer.config.grid, [to_latents(view).float().cpu() for view in views], codes_id,
        [picture.size for picture in pictures], [(view.shape[2], view.shape[1]) for view in views], fit, features,
    )  # fmt: skip
