"""Whether an image could be one of the tiny world, which is made of a few flat colours."""

import numpy as np
from PIL import Image

COLOURS = 8  # the most common ones
LEAST = 0.8  # the share of pixels in them: 0.98 and more in 100 drawn scenes, 0.2 to 0.6 in five photographs


def is_flat(image: Image.Image) -> bool:
    """A photograph with a plain background may count as flat, too."""
    small = np.asarray(image.convert("RGB").resize((64, 64), Image.BOX), dtype=np.int64) // 16
    counts = np.bincount((small @ (256, 16, 1)).ravel())  # at 16 levels a channel
    return np.sort(counts)[-COLOURS:].sum() >= LEAST * counts.sum()
