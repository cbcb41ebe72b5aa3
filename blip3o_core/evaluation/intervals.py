"""How sure a mean is: bootstrap intervals over items.

Samples of one item are no independent questions, so an item's mean is drawn as one (B. Efron, R. Tibshirani, "An
Introduction to the Bootstrap", 1993, percentile intervals). A benchmark that weighs its categories has a fixed number
of items of each: items are then drawn within their category, and what categories differ by makes no interval wider.
Where every item got the same number the interval has no width: then nothing was seen that could vary, which with few
items is no certainty.
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


def mean_of(
    values: Sequence[float], weights: Sequence[float] | None = None, groups: Sequence[str] | None = None
) -> Mean:
    """The mean of items' numbers, each with its weight; None: all count the same. At least one weight is above 0.

    `groups`: that of each item. A resample has as many items of each group as there are; None: all are one group.
    """
    numbers = np.asarray(values, float)
    shares = np.ones(len(numbers)) if weights is None else np.asarray(weights, float)
    names = np.zeros(len(numbers)) if groups is None else np.asarray(groups)
    counted = shares > 0
    numbers, shares = numbers[counted], shares[counted]
    drawn = _resampled(numbers, shares, _places(names[counted]))
    low, high = np.quantile(drawn, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    mean = float((numbers * shares).sum() / shares.sum())
    return Mean(mean, min(float(low), mean), max(float(high), mean), len(numbers))  # rounding leaves the mean inside


def _places(names: np.ndarray) -> list[np.ndarray]:
    """The places of each group's items. Those that are alone form one group, because alone they could not vary."""
    _, group, size = np.unique(names, return_inverse=True, return_counts=True)
    group = np.where(size[group] > 1, group, -1)
    return [np.flatnonzero(group == one) for one in np.unique(group)]


def _resampled(numbers: np.ndarray, shares: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """(RESAMPLES,) weighted means of as many items of each group, drawn with replacement."""
    chance = np.random.default_rng(_SEED)
    step = max(1, _AT_ONCE // len(numbers))
    parts = []
    for first in range(0, RESAMPLES, step):
        times = min(step, RESAMPLES - first)
        drawn = np.concatenate(
            [places[chance.integers(0, len(places), (times, len(places)))] for places in groups], axis=1
        )
        parts.append((numbers[drawn] * shares[drawn]).sum(1) / shares[drawn].sum(1))
    return np.concatenate(parts)
