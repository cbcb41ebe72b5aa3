"""The colours in which the bundled model's tokens are shown while they are written: a mean colour for each code.

A pixel of the PNG is a code, row by row. `python -m tools.token_colours` fits it.
"""

from pathlib import Path

import torch
from PIL import Image

FILE = Path(__file__).with_name("code_colours.png")


def bundled_colours() -> torch.Tensor:
    """(K, 3) uint8 for the codes of the bundled model."""
    with Image.open(FILE) as image:
        return torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(-1, 3)
