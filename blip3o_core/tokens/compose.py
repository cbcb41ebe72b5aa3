"""Image tokens put together from others, and compared. Cells are the places of the grid."""

from dataclasses import replace

import torch

from ..checks import require_finite
from ..editing.masks import latent_mask
from ..errors import Blip3oError
from .image_tokens import ImageTokens


def require_whole(tokens: ImageTokens) -> None:
    """Raise Blip3oError unless every cell of every row has an image token."""
    cells = tokens.grid[0] * tokens.grid[1]
    codes, known = tokens.codes, tokens.codes_id.num_codes
    for row, (length, own) in enumerate(zip(tokens.lengths, codes, strict=True)):
        outside = bool((own < 0).any()) or (known is not None and bool((own >= known).any()))
        if length != cells or codes.shape[1] != cells or outside:
            raise Blip3oError(
                f"Row {row} of the tokens is not a whole image: it has {length} of {cells} tokens, or words among "
                "them, because vocabulary was 'full'. Set vocabulary to 'image tokens' in BLIP3o Token Generator."
            )


def cells_of_mask(mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(h, w) or (B, h, w) mask of any size over the image -> (1 or B, H, W) bool on the CPU: the cells it touches."""
    if mask.numel() == 0:
        raise Blip3oError(f"mask is empty: its shape is {tuple(mask.shape)}. Connect another mask.")
    require_finite(mask, "mask", "Paint it again, or remove the node that computed it.")
    masks = mask.cpu() if mask.ndim == 3 else mask.cpu()[None]
    return torch.stack([latent_mask(each, grid)[0, 0] > 0 for each in masks])


def from_token(first: int, grid: tuple[int, int]) -> torch.Tensor:
    """(1, H, W) bool: the cells from token `first` on, in the order in which they are written."""
    cells = grid[0] * grid[1]
    if not 0 <= first <= cells:
        raise Blip3oError(f"from_token is {first}. This grid has the tokens 0 to {cells - 1}.")
    return (torch.arange(cells) >= first).view(1, *grid)


def require_comparable(one: ImageTokens, other: ImageTokens) -> None:
    """Raise Blip3oError unless a code means the same in both, and there are as many rows, or one in either."""
    if not (one.codes_id.understands(other.codes_id) or other.codes_id.understands(one.codes_id)):
        raise Blip3oError(
            f"The two images were written by different checkpoints: {one.codes_id} and {other.codes_id}. Their codes "
            "do not mean the same. Write both with one checkpoint."
        )
    if one.grid != other.grid:
        grids = " and ".join(f"{height}x{width}" for height, width in (one.grid, other.grid))
        raise Blip3oError(f"The two images have different grids: {grids}. Write both with one checkpoint.")
    if len(one) != len(other) and 1 not in (len(one), len(other)):
        raise Blip3oError(
            f"The first input has {len(one)} rows of tokens and the second {len(other)}. Give one row, or as many."
        )
    for tokens in (one, other):
        require_whole(tokens)


def splice(base: ImageTokens, other: ImageTokens, cells: torch.Tensor) -> ImageTokens:
    """`base` with the codes of `other` in `cells` (1 or B, H, W) bool, row by row; a single row serves all.

    The prompt is the base's. Hidden states are dropped: each depends on all codes before it.
    """
    require_comparable(base, other)
    rows = max(len(base), len(other), len(cells))
    if {len(base), len(other), len(cells)} - {1, rows}:
        images = max(len(base), len(other))
        raise Blip3oError(f"There are {len(cells)} masks for {images} images. Give one mask, or one for each image.")
    base = repeated(base, rows)
    codes = torch.where(cells.flatten(1), other.codes, base.codes)
    if torch.equal(codes, base.codes):
        return base
    return replace(base, codes=codes, hidden=None, hidden_source=None)


def repeated(tokens: ImageTokens, rows: int) -> ImageTokens:
    """A single row `rows` times; several rows as they are."""
    if len(tokens) == rows:
        return tokens
    hidden = tokens.hidden
    return replace(
        tokens, codes=tokens.codes.expand(rows, -1), prompts=tokens.prompts * rows, seeds=tokens.seeds * rows,
        prompt_ids=tokens.prompt_ids and tokens.prompt_ids * rows, lengths=tokens.lengths * rows,
        hidden=None if hidden is None else hidden.expand(rows, -1, -1),
    )  # fmt: skip


def differing(one: ImageTokens, other: ImageTokens) -> torch.Tensor:
    """(B, H, W) bool: the cells in which two images have different codes."""
    require_comparable(one, other)
    return (one.codes != other.codes).view(-1, *one.grid)
