"""Reads a word in the pixel font. Every glyph fills its cells, so the outline gives the scale and the positions.

Letters of the second edition stand in patches: they are smaller, and farther apart.
"""

from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, gaussian_filter, label

from ..scenes.font import CHARACTERS, GLYPHS, HEIGHT, PITCH, WIDTH
from ..scenes.spec import DetectedWord
from ..scenes.world import LETTER_PITCH

MIN_CORRELATION = 0.6  # with a glyph; below it a character reads "?"
MAX_LETTERS = 12
LETTER_HEIGHTS = (11, 18)  # units, of a letter that stands in a patch: 14, and blur; other things are higher
_MIN_LETTER = 24  # square units; a letter has at least 44
_CELL = 4  # px of a cell when glyphs are compared
_MIN_INK = 8  # square units; smaller specks are ignored
_SHIFTS = tuple((y, x) for y in (0, -2, 2) for x in (0, -2, 2))  # px that a glyph may be off its cells
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def letters_of(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: of the components those that are as large as letters in patches."""
    labels, count = label(mask, _EIGHT_NEIGHBOURS)
    areas, small = np.bincount(labels.ravel()), np.zeros(count + 1, bool)
    for number, window in enumerate(find_objects(labels), 1):
        height, width = (part.stop - part.start for part in window)
        lowest, highest = LETTER_HEIGHTS
        small[number] = lowest <= height <= highest >= width and areas[number] >= _MIN_LETTER
    return small[labels]


def read_word(rgb: np.ndarray, ground, mask: np.ndarray, ink_name) -> DetectedWord | None:
    """(H, W, 3) image, its ground, and (H, W) bool where ink may be, in units -> the word, None without ink."""
    background, distance = ground.colour, ground.distance
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
    pitch = LETTER_PITCH if bottom - top <= LETTER_HEIGHTS[1] else PITCH
    count = min(max(round(((right - left) / cell + pitch - WIDTH) / pitch), 1), MAX_LETTERS)
    size = (pitch * (count - 1) + WIDTH) * _CELL, HEIGHT * _CELL
    image = Image.fromarray(np.rint(coverage * 255).astype(np.uint8))
    line = np.pad(np.asarray(image.resize(size, Image.Resampling.BILINEAR, box), np.float32), 2)
    text = ""
    for k in range(count):
        crops = []
        for y, x in _SHIFTS:
            start = pitch * _CELL * k + 2 + x
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
