"""Reads a word in the pixel font. Every glyph fills its cells, so the outline gives the scale and the positions."""

from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, gaussian_filter, label

from ..scenes.font import CHARACTERS, GLYPHS, HEIGHT, PITCH, WIDTH
from ..scenes.spec import DetectedWord

MIN_CORRELATION = 0.6  # with a glyph; below it a character reads "?"
MAX_LETTERS = 12
_CELL = 4  # px of a cell when glyphs are compared
_MIN_INK = 8  # square units; smaller specks are ignored
_SHIFTS = tuple((y, x) for y in (0, -2, 2) for x in (0, -2, 2))  # px that a glyph may be off its cells
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def read_word(
    rgb: np.ndarray, background: np.ndarray, distance: np.ndarray, mask: np.ndarray, ink_name
) -> DetectedWord | None:
    """(H, W, 3) image, (3,) background, (H, W) distance to it and its mask, in units -> the word, None without ink."""
    labels, _ = label(mask, _EIGHT_NEIGHBOURS)
    areas = np.bincount(labels.ravel())
    ink = (areas >= _MIN_INK)[labels] & mask
    if not ink.any():
        return None
    strong = ink & (distance >= 0.75 * np.quantile(distance[ink], 0.95))
    colour = np.median(rgb[strong], 0)
    contrast = colour - background
    coverage = np.clip(((rgb - background) @ contrast) / max(contrast @ contrast, 1.0), 0, 1) * ink
    if not (coverage >= 0.5).any():  # for example stripes around the background colour
        return None
    ((rows, columns),) = find_objects((coverage >= 0.5).astype(int))
    height, width = coverage.shape
    cut = rows.start < 1 or columns.start < 1 or rows.stop > height - 1 or columns.stop > width - 1
    box = columns.start, rows.start, columns.stop, rows.stop
    return DetectedWord(_read(coverage, box), ink_name(colour, background), bool(cut))


def _read(coverage: np.ndarray, box) -> str:
    left, top, right, bottom = box
    cell = (bottom - top) / HEIGHT
    count = min(max(round(((right - left) / cell + PITCH - WIDTH) / PITCH), 1), MAX_LETTERS)
    size = (PITCH * count - 1) * _CELL, HEIGHT * _CELL
    image = Image.fromarray(np.rint(coverage * 255).astype(np.uint8))
    line = np.pad(np.asarray(image.resize(size, Image.Resampling.BILINEAR, box), np.float32), 2)
    text = ""
    for k in range(count):
        crops = []
        for y, x in _SHIFTS:
            start = PITCH * _CELL * k + 2 + x
            crops.append(line[2 + y : 2 + y + HEIGHT * _CELL, start : start + WIDTH * _CELL].ravel())
        correlation = _normalised(np.array(crops)) @ _glyphs().T  # (shifts, characters)
        best = correlation.max(0).reshape(-1, len(CHARACTERS)).max(0)
        text += CHARACTERS[best.argmax()] if best.max() >= MIN_CORRELATION else "?"
    return text


@lru_cache(1)
def _glyphs() -> np.ndarray:
    """(2 x 36, pixels): all glyphs crisp, then all soft, each with mean 0 and length 1."""
    cell = np.ones((_CELL, _CELL), np.float32)
    crisp = [np.pad(np.kron(GLYPHS[character], cell), _CELL) for character in CHARACTERS]
    soft = [gaussian_filter(glyph, 0.6 * _CELL) for glyph in crisp]
    inner = slice(_CELL, -_CELL)
    return _normalised(np.array([glyph[inner, inner].ravel() for glyph in crisp + soft]))


def _normalised(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
