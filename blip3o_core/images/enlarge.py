"""Images made larger for the eye: nothing is added to what the model made."""

import numpy as np
import torch

from ..errors import Blip3oError
from .limits import MAX_SIDE
from .reader import MAX_PIXELS

SMALL = 256  # pixels


def check_enlarged(size: tuple[int, int], factor: int) -> None:
    """Raise Blip3oError where an image of `size` (W, H) becomes larger than `images.reader` takes."""
    width, height = size[0] * factor, size[1] * factor
    if factor > 1 and (max(width, height) > MAX_SIDE or width * height > MAX_PIXELS):
        most = max(1, min(MAX_SIDE // max(size), int((MAX_PIXELS / (size[0] * size[1])) ** 0.5)))
        raise Blip3oError(
            f"--enlarge is {factor}, which makes {width}x{height} of {size[0]}x{size[1]}. A side may have at most "
            f"{MAX_SIDE} pixels, and an image {MAX_PIXELS // 10**6} million. Choose --enlarge {most} or less."
        )


def enlarge(image: torch.Tensor, factor: int) -> torch.Tensor:
    """(H, W, 3) in [0, 1] -> (factor * H, factor * W, 3) in 256 steps of each colour.

    An image with a side below SMALL keeps its pixels, as squares; larger ones are interpolated (Lanczos).
    """
    if factor == 1:
        return image
    from PIL import Image

    height, width = image.shape[:2]
    pixels = Image.fromarray((image * 255).round().to(torch.uint8).cpu().numpy())
    kind = Image.Resampling.NEAREST if min(height, width) < SMALL else Image.Resampling.LANCZOS
    larger = pixels.resize((width * factor, height * factor), kind)
    return torch.from_numpy(np.array(larger)) / 255
