"""Marked cells of a grid as text that people can read and type: "27x27: 3-7, 30".

Cells are counted row by row from 0, the first number is the grid's rows. A text without a version is version 1; a later
form begins with its own, "v2 ...". No text at all marks nothing.
"""

import re

import torch

from ..errors import Blip3oError, shown
from .resample import runs

VERSION = 1
_FORM = re.compile(r"(?:v([0-9]{1,4})\s+)?([0-9]{1,5})x([0-9]{1,5})\s*:\s*([0-9\s,-]*)")
_CELLS = re.compile(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?")


def parse_marks(text: str, grid: tuple[int, int]) -> torch.Tensor:
    """(H, W) bool, True in the cells that `text` marks. Blip3oError names what is wrong with it."""
    marked = torch.zeros(grid, dtype=torch.bool)
    if not text.strip():
        return marked
    version = re.match(r"\s*v([0-9]{1,4})\s", text)
    if version and int(version[1]) != VERSION:
        raise Blip3oError(
            f"marks is '{shown(text, 60)}', of version {version[1]}; this release reads version {VERSION}. Update "
            "BLIP3o-NEXT, or clear the marks and brush again."
        )
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _malformed(text)
    if (int(found[2]), int(found[3])) != grid:
        raise Blip3oError(
            f"marks is for a grid of {found[2]}x{found[3]} tokens, but these tokens have {grid[0]}x{grid[1]}. Clear "
            "the marks, run once, and brush again."
        )
    flat = marked.view(-1)
    for part in filter(None, map(str.strip, found[4].split(","))):
        pair = _CELLS.fullmatch(part)
        if pair is None:
            raise _malformed(text)
        first, last = int(pair[1]), int(pair[2] or pair[1])
        if not first <= last < len(flat):
            raise Blip3oError(
                f"marks names the cells '{part}'. A grid of {grid[0]}x{grid[1]} has the cells 0 to {len(flat) - 1}; "
                "write the smaller number first."
            )
        flat[first : last + 1] = True
    return marked


def _malformed(text: str) -> Blip3oError:
    return Blip3oError(
        f"marks is '{shown(text, 60)}', which cannot be read. Write the grid, a colon and the cells, counted row by "
        "row from 0: '27x27: 3-7, 30'. Leave it empty to mark nothing."
    )


def cells_text(marked: torch.Tensor) -> str:
    """(H, W) bool -> the marked cells without the grid: "3-7, 30"."""
    pairs = ((first, first + count - 1) for first, count in runs(marked.flatten()))
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in pairs)


def marks_text(marked: torch.Tensor) -> str:
    """(H, W) bool -> what `parse_marks` reads; nothing marked is no text."""
    height, width = marked.shape
    return f"{height}x{width}: {cells_text(marked)}" if bool(marked.any()) else ""
