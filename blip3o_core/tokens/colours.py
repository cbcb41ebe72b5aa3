"""The colours in which image tokens are shown while they are written.

For codes of which nothing is known there are arbitrary ones. `learn` keeps true ones in a file for each checkpoint: the
mean colour of what was rendered from a code.
"""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..errors import Blip3oError, shown
from ..files import atomic_write, read_bytes, remove_abandoned

MOST_FILES = 64  # tables in a folder; the oldest goes when there are more
_MOST_BYTES = 4 * 2**20  # of a file; the table of 65,536 codes has 1 MB
_MOST_SEEN = 2**31 - 1
_ONE_COLOUR = 1 / 255  # an image that varies less failed: it shows nothing of its codes
_REACH, _GREY, _GREY_WEIGHT = 3, 128, 0.5  # see `_fill`


def code_colours(embedding: torch.Tensor) -> torch.Tensor:
    """(K, D) embeddings of the image tokens -> (K, 3) uint8: similar codes get similar colours.

    Three fixed random directions of the embedding, each stretched so that two standard deviations fill the range.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    directions = torch.randn(embedding.shape[1], 3, generator=generator).to(embedding)
    places = (embedding @ directions).float()
    places = (places - places.mean(0)) / places.std(0).clamp(min=1e-12)
    return ((places / 4 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


@dataclass(frozen=True)
class LearnedColours:
    """For each code the mean colour of the cells that were rendered from it."""

    means: torch.Tensor  # (K, 3) float32 in [0, 1]
    counts: torch.Tensor  # (K,) int32: how many cells

    @property
    def known(self) -> torch.Tensor:
        """(K,) bool: the codes that were rendered at least once."""
        return self.counts > 0

    @property
    def colours(self) -> torch.Tensor:
        """(K, 3) uint8."""
        return (self.means * 255).round().to(torch.uint8)

    def add(self, codes: torch.Tensor, colours: torch.Tensor) -> "LearnedColours":
        """With (N,) more codes and their (N, 3) colours in [0, 1]. Codes outside [0, K) are text tokens: left out."""
        image_codes = (codes >= 0) & (codes < len(self.counts))
        found, place, number = codes[image_codes].unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(found), 3, dtype=torch.float64).index_add_(0, place, colours[image_codes].double())
        before = self.counts[found].long()
        after = before + number
        means, counts = self.means.clone(), self.counts.clone()
        means[found] = ((means[found] * before[:, None].double() + sums) / after[:, None]).float()
        counts[found] = after.clamp(max=_MOST_SEEN).int()
        return LearnedColours(means, counts)


def grid_colours(images: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, 3) -> (B, T, 3): the mean colour of each cell of the grid, row by row, float32 on the CPU."""
    means = F.adaptive_avg_pool2d(images[..., :3].movedim(-1, 1).float(), grid)
    return means.flatten(2).movedim(1, 2).cpu()


def learn(path: Path, num_codes: int, codes: torch.Tensor, grid: tuple[int, int], images: torch.Tensor) -> None:
    """Add what (B, H, W, 3) images in [0, 1] show of their (B, T) codes to the table in `path`.

    Images with a number that is not finite, or of a single colour, are left out. What another process writes at the
    same moment may be lost, never the table. Raises OSError where the file cannot be written.
    """
    colours = grid_colours(images, grid)
    spread = colours.amax((1, 2)) - colours.amin((1, 2))
    usable = colours.isfinite().flatten(1).all(1) & (spread > _ONE_COLOUR)
    if not usable.any():
        return
    table = read_colours(path, num_codes).add(codes.cpu()[usable].flatten(), colours[usable].clamp(0, 1).flatten(0, 1))
    data = save({"means": table.means.contiguous(), "counts": table.counts.contiguous()})
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        remove_abandoned(path.parent)
        _make_room(path.parent)
    with atomic_write(path) as scratch:
        scratch.write_bytes(data)


def read_colours(path: Path, num_codes: int) -> LearnedColours:
    """The table in `path`; an empty one where there is none, or where the file is damaged or of something else."""
    try:
        if path.exists():
            return _checked(load(read_bytes(path, "It is made anew.", _MOST_BYTES)), num_codes)
    except (Blip3oError, OSError, SafetensorError, KeyError, ValueError) as error:
        logging.getLogger(__name__).debug("BLIP3o: the colours in %s are not used: %s", shown(path), error)
    return LearnedColours(torch.zeros(num_codes, 3), torch.zeros(num_codes, dtype=torch.int32))


def _checked(tensors: dict[str, torch.Tensor], num_codes: int) -> LearnedColours:
    facts = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if facts != {"means": ((num_codes, 3), torch.float32), "counts": ((num_codes,), torch.int32)}:
        raise ValueError(f"it holds {shown(facts)}")
    table = LearnedColours(**tensors)
    if not ((table.means >= 0) & (table.means <= 1)).all() or (table.counts < 0).any():
        raise ValueError("it holds values out of range")
    return table


def _make_room(folder: Path) -> None:
    """Remove the oldest tables, so that one more may be written."""
    tables = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError):
            tables.append((path.stat().st_mtime, path))
    for _, path in sorted(tables)[: max(0, len(tables) - MOST_FILES + 1)]:
        with contextlib.suppress(OSError):
            path.unlink()


ACROSS, MOST_SHOWN = 8, 64  # images of a mosaic


def mosaic(
    codes: torch.Tensor, colours: torch.Tensor, grid: tuple[int, int], known: torch.Tensor | None = None
) -> torch.Tensor:
    """The first n codes of rows (B, n) -> (h, w, 3) uint8, one pixel a token, black where none is written yet.

    Images stand side by side, ACROSS in a line; only the first MOST_SHOWN are shown. So the shape stays near a square
    however many there are: a strip of a thousand, made small, has no height. `colours`: (K, 3) uint8. `known`: (K,)
    bool, whose colours are learned; the others take theirs from the tokens around. None: all.
    """
    height, width = grid
    codes = codes[:MOST_SHOWN].cpu().clamp(0, len(colours) - 1)
    across = min(len(codes), ACROSS)
    lines = -(-len(codes) // across)
    canvas = torch.zeros(lines * across, height * width, 3, dtype=torch.uint8)
    canvas[: len(codes), : codes.shape[1]] = colours[codes]
    if known is not None:
        _fill(canvas[: len(codes)], known[codes], grid)
    return canvas.view(lines, across, height, width, 3).movedim(1, 2).reshape(lines * height, across * width, 3)


def _fill(canvas: torch.Tensor, known: torch.Tensor, grid: tuple[int, int]) -> None:
    """Colour the tokens of a (B, H*W, 3) uint8 canvas that are not `known` (B, n), in place.

    The mean of the known tokens up to _REACH cells around, each with its distance to the power of -3, and of grey with
    the weight _GREY_WEIGHT. On held-back scenes this came nearer to the true colours than the most similar known codes.
    """
    written = known.shape[1]
    weights = F.pad(known.float(), (0, grid[0] * grid[1] - written))
    layers = torch.cat([canvas.float() * weights[..., None], weights[..., None]], dim=-1)
    layers = layers.movedim(-1, 1).reshape(-1, 1, *grid)
    near = F.conv2d(layers, _kernel(), padding=_REACH).view(len(canvas), 4, -1).movedim(1, -1)
    around = (near[..., :3] + _GREY_WEIGHT * _GREY) / (near[..., 3:] + _GREY_WEIGHT)
    canvas[:, :written][~known] = around[:, :written][~known].round().to(torch.uint8)


def _kernel() -> torch.Tensor:
    """(1, 1, 2 * _REACH + 1, 2 * _REACH + 1): each cell's weight for the one in the middle, whose own is 0."""
    steps = torch.arange(-_REACH, _REACH + 1).float()
    distances = torch.cartesian_prod(steps, steps).norm(dim=-1)
    return torch.where(distances > 0, distances.pow(-3), 0.0).view(1, 1, len(steps), len(steps))
