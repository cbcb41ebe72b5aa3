"""How sure a mean is: bootstrap intervals over items.

Samples of one item are no independent questions, so an item's mean is drawn as one (B. Efron, R. Tibshirani, "An
Introduction to the Bootstrap", 1993, percentile intervals). Where every item got the same number the interval has no
width: then nothing was seen that could vary, which with few items is no certainty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SHARE = 0.95
_SEED = 17
_AT_ONCE = 2**22  # numbers in memory


@dataclass(frozen=True)
class Mean:
    """A mean over n items and its interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_of(values: Sequence[float], weights: Sequence[float] | None = None) -> Mean:
    """The mean of items' numbers, each with its weight; None: all count the same. At least one weight is above 0."""
    numbers = np.asarray(values, float)
    shares = np.ones(len(numbers)) if weights is None else np.asarray(weights, float)
    numbers, shares = numbers[shares > 0], shares[shares > 0]
    low, high = np.quantile(_resampled(numbers, shares), [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Mean(float((numbers * shares).sum() / shares.sum()), float(low), float(high), len(numbers))


def _resampled(numbers: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(RESAMPLES,) weighted means of as many items, drawn with replacement."""
    chance, count = np.random.default_rng(_SEED), len(numbers)
    step = max(1, _AT_ONCE // count)
    parts = []
    for first in range(0, RESAMPLES, step):
        drawn = chance.integers(0, count, (min(step, RESAMPLES - first), count))
        parts.append((numbers[drawn] * shares[drawn]).sum(1) / shares[drawn].sum(1))
    return np.concatenate(parts)
