"""Whether an image could be one of the tiny world, which is made of a few colours, plain or with a faint texture."""

import numpy as np
from PIL import Image

COLOURS = 8  # the most common ones
# The share of pixels in them: 0.97 and more in 100 scenes of the first edition, 0.81 and more in 1,500 with textures
# (the least have a gradient), 0.3 to 0.67 in seven photographs with colours.
LEAST = 0.75


def is_flat(image: Image.Image) -> bool:
    """A photograph with a plain background may count as flat, too, and so do most without colours."""
    small = np.asarray(image.convert("RGB").resize((64, 64), Image.BOX), dtype=np.int64) // 16
    counts = np.bincount((small @ (256, 16, 1)).ravel())  # at 16 levels a channel
    return np.sort(counts)[-COLOURS:].sum() >= LEAST * counts.sum()
