"""Surface textures: patterns of lighter and darker, on objects and on grounds, around the colour that the palette says.

A pattern is fixed to the image, in units, so that an autoencoder meets few of them; a gradient is fixed to what it lies
on. Its mean is zero: the mean colour of a textured surface is its colour. The codes of the image tokenizer say nothing
of textures.

Captions name a kind, not its variant, and a renderer that is unsure which is meant makes their mean, which is plain. So
a texture that a caption names is the first of its kind. The others are in images whose captions name none: they come
from a reference. Light falls from above, and every grain is the same.
"""

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .keyed_random import KeyedRandom

DEPTH = 24  # of 255, largest displacement of a channel; the palette's nearest colours are 78 apart
MIN_DEPTH = 25.0  # RGB length of a displacement that can be seen; white has no room for one
ADJECTIVES = {"stripes": "striped", "dots": "dotted", "checks": "checked", "gradient": "shaded", "grain": "grainy"}
KINDS = tuple(ADJECTIVES)
VARIANTS = {"stripes": 4, "dots": 2, "checks": 2, "gradient": 1, "grain": 1}
_GRAIN = 4  # units, side of a grain
_GRAINS = 8  # a side of the tile that is repeated


@dataclass(frozen=True)
class Texture:
    kind: str = "solid"
    variant: int = 0  # direction or size; captions do not name it


SOLID = Texture()
TEXTURES = tuple(Texture(kind, variant) for kind in KINDS for variant in range(VARIANTS[kind]))


def any_texture(rng: KeyedRandom) -> Texture:
    """Each kind as often as the others."""
    kind = rng.choice(KINDS)
    return Texture(kind, rng.below(VARIANTS[kind]))


def first_of_its_kind(texture: Texture) -> Texture:
    return Texture(texture.kind)


def displacement(rgb) -> np.ndarray:
    """(3,) float32: how far a colour moves at a pattern's 1, and back at its -1. Zero for a colour without room."""
    colour = np.array(rgb, np.float32)
    depth = np.minimum(np.minimum(colour, 255 - colour), DEPTH)
    return depth if np.linalg.norm(depth) >= MIN_DEPTH else np.zeros(3, np.float32)


def pattern(texture: Texture, x: np.ndarray, y: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Broadcastable x and y in units -> values in [-1, 1]. A gradient spans `box`: left, top, right, bottom."""
    kind, variant = texture.kind, texture.variant
    if kind == "stripes":
        along, width = ((x, 4), (y, 4), (x + y, 8), (x - y, 8))[variant]
        return _sign(np.floor(along / width) + 0 * (x + y))
    if kind == "checks":
        width = (4, 8)[variant]
        return _sign(np.floor(x / width) + np.floor(y / width))
    if kind == "dots":
        spacing = (8, 16)[variant]
        radius = 0.3 * spacing
        share = math.pi * 0.3**2  # of the area
        half = spacing / 2  # a dot lies on the corner of the image, so that the border shows the texture
        distance = ((x + half) % spacing - half) ** 2 + ((y + half) % spacing - half) ** 2
        return np.where(distance <= radius**2, -1, share / (1 - share)).astype(np.float32)
    if kind == "grain":
        row, column = ((np.floor(values / _GRAIN) % _GRAINS).astype(int) for values in (y, x))
        return _grain()[row, column]
    if kind == "gradient":
        _, top, _, bottom = box
        height = 1 - 2 * (y - top) / (bottom - top)
        return np.clip(height + 0 * (x + y), -1, 1).astype(np.float32)
    return np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)


def _sign(count: np.ndarray) -> np.ndarray:
    return (1 - 2 * (count % 2)).astype(np.float32)


@lru_cache(1)
def _grain() -> np.ndarray:
    """(8, 8) of as many 1 as -1."""
    count = _GRAINS * _GRAINS
    draw = random.Random("grain/0").random  # its numbers never change
    order = sorted(range(count), key=lambda _: draw())
    tile = np.ones(count, np.float32)
    tile[order[: count // 2]] = -1
    return tile.reshape(_GRAINS, _GRAINS)


@lru_cache(64)
def surface(texture: Texture, columns: int, rows: int, scale: float) -> np.ndarray:
    """(rows, columns) pattern of a whole image that has `scale` pixels to the unit."""
    x, y = ((np.arange(count) + 0.5) / scale for count in (columns, rows))
    values = pattern(texture, x[None], y[:, None], (0.0, 0.0, columns / scale, rows / scale))
    values.flags.writeable = False  # shared by all callers
    return values
