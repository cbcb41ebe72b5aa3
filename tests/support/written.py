"""An image with lines of text in it, large and dark enough to be read."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont


def written(*lines: str, side: int = 320) -> torch.Tensor:
    """(side, side, 3) float32 in [0, 1]."""
    import matplotlib

    image = Image.new("RGB", (320, 320), (235, 230, 215))
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), 40)
    for place, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 30 + 110 * place), line, (30, 20, 90), font)
    return torch.from_numpy(np.asarray(image.resize((side, side)), np.float32) / 255)
