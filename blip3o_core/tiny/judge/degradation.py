"""Images as a trained autoencoder returns them: softer, noisier, a little off in colour. For measuring the judge."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

_BLUR_SHARE = 0.6  # of the squared error; noise makes up the rest
_MAX_BLUR = 4.0  # px


@dataclass(frozen=True)
class Degradation:
    blur: float = 0.0  # standard deviation, px
    noise: float = 0.0  # standard deviation, of 255
    colour_shift: float = 0.0  # each channel of an image is scaled by up to this share, up or down


def fit_degradation(images: Sequence[np.ndarray], psnr: float, colour_shift: float = 0.0) -> Degradation:
    """The blur and noise that reduce (S, S, 3) images to `psnr` dB, before colours shift.

    The PSNR is that of all images together, as for an autoencoder: a lone faint object gets the same blur as four
    bright ones.
    """
    clean = [image.astype(np.float32) for image in images]
    squared_error = 255**2 / 10 ** (psnr / 10)
    low, high = 0.0, _MAX_BLUR
    for _ in range(8):
        blur = (low + high) / 2
        error = np.mean([((_blurred(image, blur) - image) ** 2).mean() for image in clean])
        low, high = (blur, high) if error < _BLUR_SHARE * squared_error else (low, blur)
    return Degradation(low, float(np.sqrt((1 - _BLUR_SHARE) * squared_error)), colour_shift)


def degrade(image: np.ndarray, degradation: Degradation, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8 -> the same, degraded. Half of the noise is smooth over two pixels, as an autoencoder's is."""
    if degradation == Degradation():
        return image
    soft = _blurred(image.astype(np.float32), degradation.blur)
    white, smooth = rng.standard_normal((2, *soft.shape), np.float32)
    smooth = gaussian_filter(smooth, (1, 1, 0))
    soft += (white + smooth / smooth.std()) * np.float32(degradation.noise / np.sqrt(2))
    soft *= 1 + degradation.colour_shift * rng.uniform(-1, 1, 3)
    return np.rint(np.clip(soft, 0, 255)).astype(np.uint8)


def _blurred(image: np.ndarray, width: float) -> np.ndarray:
    return gaussian_filter(image, (width, width, 0), mode="nearest")
