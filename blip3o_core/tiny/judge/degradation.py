"""Pictures as a trained autoencoder hands them back: softer, noisier, colours a little off. For testing the judge."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

_BLUR_SHARE = 0.6  # of the squared error; noise makes up the rest
_WIDEST = 4.0  # px of blur


@dataclass(frozen=True)
class Degradation:
    blur: float = 0.0  # px, standard deviation
    noise: float = 0.0  # of 255, standard deviation
    colours: float = 0.0  # each channel of a picture is off by up to this share


def fit_degradation(pictures, decibels: float, colours: float = 0.0) -> Degradation:
    """The blur and noise that together leave (S, S, 3) pictures at `decibels` of PSNR before colours go off.

    Of all of them together, as for an autoencoder: a lone faint object is as soft as four bright ones, not softer.
    """
    clean = [picture.astype(np.float32) for picture in pictures]
    budget = 255**2 / 10 ** (decibels / 10)
    low, high = 0.0, _WIDEST
    for _ in range(8):
        width = (low + high) / 2
        error = np.mean([((_blurred(picture, width) - picture) ** 2).mean() for picture in clean])
        low, high = (width, high) if error < _BLUR_SHARE * budget else (low, width)
    return Degradation(low, float(np.sqrt((1 - _BLUR_SHARE) * budget)), colours)


def degrade(picture: np.ndarray, how: Degradation, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8 -> the same. Half of the noise's power is smooth over two pixels, as an autoencoder's is."""
    if how == Degradation():
        return picture
    soft = _blurred(picture.astype(np.float32), how.blur)
    white, smooth = rng.standard_normal((2, *soft.shape), np.float32)
    smooth = gaussian_filter(smooth, (1, 1, 0))
    soft += (white + smooth / smooth.std()) * np.float32(how.noise / np.sqrt(2))
    soft *= 1 + how.colours * rng.uniform(-1, 1, 3)
    return np.rint(np.clip(soft, 0, 255)).astype(np.uint8)


def _blurred(picture: np.ndarray, width: float) -> np.ndarray:
    return gaussian_filter(picture, (width, width, 0), mode="nearest")
