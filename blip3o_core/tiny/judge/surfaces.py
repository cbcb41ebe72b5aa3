"""Reads the ground and the textures of an image.

A texture moves a colour along one line through it, by at most the displacement of `scenes/textures.py`. So pixels on
that piece of the ground's line are ground, whatever its texture is. Where the colours on the line hardly differ, there
is no texture and nothing is taken away.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..scenes.textures import TEXTURES, displacement, pattern, surface
from ..scenes.world import PALETTE

MIN_SPREAD = 1.0  # lengths of the displacement between the lightest and the darkest part of a texture; noise has less
MAX_ACROSS = 8  # RGB distance of a texture's pixels from the line
MAX_DRIFT = 20  # RGB length that a ground may be lighter or darker than a texture of its colour makes it
MIN_DEPTH = 0.35  # least depth of a texture, as a share of the true one; below it a surface is solid
MIN_MATCH = 0.5  # least correlation with the pattern of a kind
_BORDER = 2  # units; its pixels give the background colour
_RARE = 0.02  # share of pixels that are left out at either end of a spread
_EDGES = 0.1  # the same of an object, which may have soft edges left
_EVERY = 3  # one pixel of the ground in so many is compared with the patterns


class Ground(NamedTuple):
    colour: np.ndarray  # (3,), between the lightest and the darkest part of a texture
    difference: np.ndarray  # (H, W, 3) to it, without what a texture may do
    distance: np.ndarray  # (H, W), the length of that


def find_ground(rgb: np.ndarray, near: float) -> Ground:
    """(H, W, 3) -> the ground, whose colours on the border differ by less than `near`."""
    parts = [rgb[:_BORDER], rgb[-_BORDER:], rgb[:, :_BORDER], rgb[:, -_BORDER:]]
    border = np.concatenate([part.reshape(-1, 3) for part in parts])
    colour = np.median(border, 0)
    name = _name_of(colour)
    line = line_of(name)
    length = np.linalg.norm(line)
    low = high = 0.0
    if length:
        axis, true = line / length, PALETTE[name]
        along, across = split_along(border - true, axis)
        own = along[(np.abs(along) <= length + MAX_DRIFT) & (across <= near)]
        if len(own) and spread(own) >= MIN_SPREAD * length:
            middle = own.mean()
            colour = colour + (middle - (colour - true) @ axis) * axis
            low, high = np.quantile(own, (_RARE, 1 - _RARE)) - middle
    difference = rgb - colour
    if high > low:
        difference = difference - np.clip(difference @ axis, low, high)[..., None] * axis
    return Ground(colour, difference, np.sqrt(np.einsum("hwc,hwc->hw", difference, difference)))


def _name_of(rgb: np.ndarray) -> str:
    """The colour of the palette that a texture may bring nearest to this one."""

    def distance(name: str) -> float:
        difference, line = rgb - PALETTE[name], line_of(name)
        share = np.clip(difference @ line / max(line @ line, 1.0), -1, 1)
        return float(np.linalg.norm(difference - share * line))

    return min(PALETTE, key=distance)


def line_of(name: str | None) -> np.ndarray:
    """(3,) displacement of a colour of the palette, zero for None."""
    return displacement(PALETTE[name]) if name else np.zeros(3, np.float32)


def is_textured(differences: np.ndarray, line: np.ndarray) -> bool:
    """Whether (n, 3) differences to a colour spread along its line as far as a texture's do.

    Soft edges spread, too, but away from the line: what is far from it is left out.
    """
    length = np.linalg.norm(line)
    if not length or not len(differences):
        return False
    axis = line / length
    # Of two colours in about equal parts the median may be neither, so the line's place is taken from the pixels.
    place = np.median(differences - (differences @ axis)[:, None] * axis, 0)
    along, across = split_along(differences - place, axis)
    along = along[across <= MAX_ACROSS]
    return len(along) > 0 and bool(spread(along, _EDGES) >= MIN_SPREAD * length)


def without_line(difference: np.ndarray, line: np.ndarray) -> np.ndarray:
    """(..., 3) without their component along the line, as far as the line reaches either way."""
    share = np.clip(difference @ line / (line @ line), -1, 1)
    return difference - share[..., None] * line


def split_along(difference: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 3) -> its component along a unit vector, and the length of the rest."""
    along = difference @ axis
    return along, np.linalg.norm(difference - along[..., None] * axis, axis=-1)


def spread(values: np.ndarray, rare: float = _RARE) -> float:
    low, high = np.quantile(values, (rare, 1 - rare))
    return high - low


def kind_of_ground(rgb: np.ndarray, colour: np.ndarray, own: np.ndarray, name: str | None) -> str | None:
    """The kind of the ground's texture. `own`: (H, W) bool, its pixels."""
    height, width = own.shape
    chosen = np.flatnonzero(own)[::_EVERY]
    candidates = _surfaces(width, height)[:, chosen]
    return _kind(rgb.reshape(-1, 3)[chosen] - colour, candidates, name)


def kind_of_object(difference: np.ndarray, own: np.ndarray, start: tuple[int, int], box, name: str) -> str | None:
    """The kind of an object's texture. (h, w, 3) differences to its colour, (h, w) bool its inner pixels.

    `start`: row and column of the window in the image. `box`: left, top, right and bottom of the object in the image.
    """
    rows, columns = np.nonzero(own)
    y, x = rows + start[0] + 0.5, columns + start[1] + 0.5
    candidates = np.stack([pattern(texture, x, y, box) for texture in TEXTURES])
    return _kind(difference[rows, columns], candidates, name)


@lru_cache(8)
def _surfaces(width: int, height: int) -> np.ndarray:
    """(textures, pixels) of an image in units."""
    return np.stack([surface(texture, width, height, 1.0).ravel() for texture in TEXTURES])


def _kind(difference: np.ndarray, candidates: np.ndarray, name: str | None) -> str | None:
    """(n, 3) differences and (textures, n) patterns -> a kind, "solid", or None where no kind fits."""
    line = line_of(name)
    length = np.linalg.norm(line)
    if not length or not len(difference):
        return "solid"
    waves = difference @ (line / length**2)
    waves = waves - waves.mean()
    candidates = candidates - candidates.mean(1, keepdims=True)
    product, energy = candidates @ waves, np.maximum((candidates**2).sum(1), 1e-6)
    match = product / np.sqrt(energy * max((waves**2).sum(), 1e-6))
    best = int(match.argmax())
    if match[best] >= MIN_MATCH and product[best] / energy[best] >= MIN_DEPTH:
        return TEXTURES[best].kind
    return "solid" if waves.std() < MIN_DEPTH else None
