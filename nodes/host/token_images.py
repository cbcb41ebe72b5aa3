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
from .colours import learned

ARBITRARY = (
    "The colours are arbitrary: each code has its own, and similar codes have different ones. The colours of the image "
    "are shown for the bundled model, and for a checkpoint some of whose images were rendered here."
)


@cache
def _bundled_codes() -> CodesId:
    return open_checkpoint(bundled.resolve_checkpoint(None)).codes_id


def colours_of(tokens: ImageTokens) -> tuple[torch.Tensor, torch.Tensor | None, bool]:
    """What `mosaic` takes, (K, 3) colours and which are known, and whether they are those of the image.

    Tokens say which checkpoint wrote them as long as they have hidden states.
    """
    if _bundled_codes().understands(tokens.codes_id):
        return bundled_colours(), None, True
    count = tokens.codes_id.num_codes or int(tokens.codes.max().clamp(min=0)) + 1
    if tokens.hidden_source is not None:
        found = learned(tokens.hidden_source.split(":")[0], count)
        if found.known.any():
            return found.colours, found.known, True
    return torch.randint(32, 256, (count, 3), generator=seeded(0), dtype=torch.uint8), None, False


def view(tokens: ImageTokens, side: int) -> tuple[torch.Tensor, bool]:
    """(B, H * side, W * side, 3) images, and whether they have the colours of the image."""
    *colours, true = colours_of(tokens)
    return grid_images(tokens, side, *colours), true


def compare(a: ImageTokens, b: ImageTokens, side: int) -> tuple[torch.Tensor, float, str, torch.Tensor]:
    """(B, H, W) mask of the cells that differ, the share that is equal, a line for each row, both in one image."""
    differ = differing(a, b)
    *colours, _ = colours_of(a if a.hidden_source else b)
    images = [grid_images(each, side, *colours) for each in (a, b)]
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
