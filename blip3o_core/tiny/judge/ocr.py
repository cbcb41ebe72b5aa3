"""Reads a word in the pixel font back: every glyph fills its cells, so the outline gives the scale and the places."""

from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, gaussian_filter, label

from ..scenes.font import CHARACTERS, GLYPHS, HEIGHT, PITCH, WIDTH
from ..scenes.spec import DetectedWord

SURE = 0.6  # correlation with a glyph below which a character reads "?"
LONGEST = 12
_DETAIL = 4  # px to a cell when glyphs are compared
_SPECK = 8  # square units of ink that are none
_SHIFTS = tuple((y, x) for y in (0, -2, 2) for x in (0, -2, 2))  # px that a glyph may be out of its cells
_EIGHT = np.ones((3, 3), int)


def read_word(rgb: np.ndarray, ground: np.ndarray, distance: np.ndarray, mask: np.ndarray, ink_name):
    """(H, W, 3) picture, (3,) ground, (H, W) distance to it and mask, in units -> DetectedWord, or None without ink."""
    labels, _ = label(mask, _EIGHT)
    areas = np.bincount(labels.ravel())
    ink = (areas >= _SPECK)[labels] & mask
    if not ink.any():
        return None
    strong = ink & (distance >= 0.75 * np.quantile(distance[ink], 0.95))
    colour = np.median(rgb[strong], 0)
    contrast = colour - ground
    coverage = np.clip(((rgb - ground) @ contrast) / max(contrast @ contrast, 1.0), 0, 1) * ink
    if not (coverage >= 0.5).any():  # stripes around the ground's colour
        return None
    ((rows, columns),) = find_objects((coverage >= 0.5).astype(int))
    height, width = coverage.shape
    cut = rows.start < 1 or columns.start < 1 or rows.stop > height - 1 or columns.stop > width - 1
    box = columns.start, rows.start, columns.stop, rows.stop
    return DetectedWord(_read(coverage, box), ink_name(colour, ground), bool(cut))


def _read(coverage: np.ndarray, box) -> str:
    left, top, right, bottom = box
    cell = (bottom - top) / HEIGHT
    count = min(max(round(((right - left) / cell + PITCH - WIDTH) / PITCH), 1), LONGEST)
    size = (PITCH * count - 1) * _DETAIL, HEIGHT * _DETAIL
    picture = Image.fromarray(np.rint(coverage * 255).astype(np.uint8))
    line = np.pad(np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box), np.float32), 2)
    text = ""
    for k in range(count):
        crops = []
        for y, x in _SHIFTS:
            start = PITCH * _DETAIL * k + 2 + x
            crops.append(line[2 + y : 2 + y + HEIGHT * _DETAIL, start : start + WIDTH * _DETAIL].ravel())
        likeness = _normalised(np.array(crops)) @ _glyphs().T  # (shifts, characters)
        best = likeness.max(0).reshape(-1, len(CHARACTERS)).max(0)
        text += CHARACTERS[best.argmax()] if best.max() >= SURE else "?"
    return text


@lru_cache(1)
def _glyphs() -> np.ndarray:
    """(2 x 36, pixels), crisp ones and soft ones, each of mean 0 and length 1."""
    cell = np.ones((_DETAIL, _DETAIL), np.float32)
    crisp = [np.pad(np.kron(GLYPHS[character], cell), _DETAIL) for character in CHARACTERS]
    soft = [gaussian_filter(glyph, 0.6 * _DETAIL) for glyph in crisp]
    inner = slice(_DETAIL, -_DETAIL)
    return _normalised(np.array([glyph[inner, inner].ravel() for glyph in crisp + soft]))


def _normalised(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
