"""What the nodes show of image tokens."""

from functools import cache

import torch

from ...blip3o_core.checkpoint import bundled, open_checkpoint
from ...blip3o_core.prompts.vocabulary import CodesId
from ...blip3o_core.seeds import seeded
from ...blip3o_core.tiny.code_colours import bundled_colours
from ...blip3o_core.tokens.compose import differing
from ...blip3o_core.tokens.image_tokens import ImageTokens
from ...blip3o_core.tokens.show import grid_images, side_by_side

ARBITRARY = (
    "The colours are arbitrary: each code has its own, and similar codes have different ones. Only the bundled model's "
    "codes are shown in the colours of the image."
)


@cache
def _bundled_codes() -> CodesId:
    return open_checkpoint(bundled.resolve_checkpoint(None)).codes_id


def colours_of(tokens: ImageTokens) -> tuple[torch.Tensor, bool]:
    """(K, 3) uint8 colours of the codes, and whether they are those of the image."""
    if _bundled_codes().understands(tokens.codes_id):
        return bundled_colours(), True
    count = tokens.codes_id.num_codes or int(tokens.codes.max().clamp(min=0)) + 1
    return torch.randint(32, 256, (count, 3), generator=seeded(0), dtype=torch.uint8), False


def view(tokens: ImageTokens, side: int) -> tuple[torch.Tensor, bool]:
    """(B, H * side, W * side, 3) images, and whether they have the colours of the image."""
    colours, true = colours_of(tokens)
    return grid_images(tokens.codes, colours, tokens.grid, side), true


def compare(a: ImageTokens, b: ImageTokens, side: int) -> tuple[torch.Tensor, float, str, torch.Tensor]:
    """(B, H, W) mask of the cells that differ, the share that is equal, a line for each image, both next to each other.

    Two empty or whole masks stay what they are: 0 is equal, 1 differs.
    """
    differ = differing(a, b)
    colours, _ = colours_of(a)
    images = [grid_images(each.codes, colours, each.grid, side) for each in (a, b)]
    cells = differ[0].numel()
    lines = [
        f"image {row}: {cells - int(own.sum())} of {cells} tokens are equal{_first(own)}"
        for row, own in enumerate(differ)
    ]
    share = 1 - float(differ.float().mean())
    return differ.float(), share, "\n".join(lines), side_by_side((images[0], images[1]), differ, side)


def _first(differ: torch.Tensor) -> str:
    places = differ.nonzero()
    if not len(places):
        return ""
    row, column = places[0].tolist()
    return f"; the first difference is in row {row}, column {column}"
