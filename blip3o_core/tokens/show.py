"""Image tokens to look at: the grid in colours, two grids next to each other, codes as text."""

import torch

from .colours import mosaic
from .image_tokens import ImageTokens

DIMMED = 0.25  # brightness of a cell that is equal in both


def grid_images(tokens: ImageTokens, side: int, colours: torch.Tensor, known: torch.Tensor | None = None):
    """(B, H * side, W * side, 3) float32 in [0, 1]: a square for each cell. `colours`, `known`: see `mosaic`."""
    rows = [mosaic(codes[None], colours, tokens.grid, known) for codes in tokens.codes]
    return enlarged(torch.stack(rows).float() / 255, side)


def enlarged(cells: torch.Tensor, side: int) -> torch.Tensor:
    """(B, H, W, ...) -> (B, H * side, W * side, ...)."""
    return cells.repeat_interleave(side, 1).repeat_interleave(side, 2)


def side_by_side(images: tuple[torch.Tensor, torch.Tensor], differ: torch.Tensor, side: int) -> torch.Tensor:
    """Two (B or 1, H * side, W * side, 3) images of grids, a cell apart. Cells that do not `differ` (B, H, W) are dim.

    Those that do have a white frame, if a cell has room for one.
    """
    marked = enlarged(differ, side)[..., None]
    frame = torch.zeros(side, side, dtype=torch.bool)
    if side >= 4:
        frame[[0, -1]] = frame[:, [0, -1]] = True
    framed = marked & frame.repeat(differ.shape[1], differ.shape[2])[None, ..., None]
    both = [torch.where(framed, 1.0, torch.where(marked, image, image * DIMMED)) for image in images]
    return torch.cat([both[0], both[0].new_zeros(len(both[0]), both[0].shape[1], side, 3), both[1]], 2)


def codes_as_text(tokens: ImageTokens) -> str:
    """A line for each token: image, row, column, code. Numbers count from 0."""
    width = tokens.grid[1]
    lines = ["image,row,column,code"]
    for image, (codes, length) in enumerate(zip(tokens.codes.tolist(), tokens.lengths, strict=True)):
        lines += [f"{image},{place // width},{place % width},{code}" for place, code in enumerate(codes[:length])]
    return "\n".join(lines)
