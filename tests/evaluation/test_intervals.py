"""Bootstrap intervals: against the formula where there is one, and the same every time."""

import numpy as np
import pytest

from blip3o_core.evaluation.intervals import mean_of


@pytest.mark.parametrize("count", [50, 400, 5000])
def test_an_interval_is_as_wide_as_the_formula_says(count):
    """Catches intervals that are too narrow or too wide: for many yes-or-no items it is 1.96 standard errors."""
    values = np.random.default_rng(count).random(count) < 0.8
    found = mean_of(values)
    share = values.mean()
    error = 1.96 * np.sqrt(share * (1 - share) / count)
    assert found.mean == pytest.approx(share) and found.n == count
    assert found.low == pytest.approx(share - error, abs=0.12 * error + 1 / count)
    assert found.high == pytest.approx(share + error, abs=0.12 * error + 1 / count)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    """Catches a share of 95 % that is another one."""
    chance = np.random.default_rng(3)
    held = [found.low <= 0.5 <= found.high for found in (mean_of(chance.random(100)) for _ in range(300))]
    assert 0.91 <= np.mean(held) <= 0.98


def test_what_categories_differ_by_makes_no_interval_wider():
    """Catches an interval of a weighted mean that is wider than the formula for so many items of each category says,
    and one without width where each category has one item."""
    chance = np.random.default_rng(5)
    shares = {"easy": 0.97, "hard": 0.1, "even": 0.5}
    names = [*["easy"] * 200, *["hard"] * 300, *["even"] * 200]
    values = [float(chance.random() < shares[name]) for name in names]
    weights = [1 / names.count(name) for name in names]
    found = mean_of(values, weights, names)
    variance = sum(
        np.var([value for value, own in zip(values, names, strict=True) if own == name]) / names.count(name)
        for name in shares
    )
    width = 2 * 1.96 * np.sqrt(variance) / 3
    assert found.high - found.low == pytest.approx(width, rel=0.08)
    wide = mean_of(values, weights)
    assert wide.high - wide.low > 1.3 * width
    alone = mean_of([0, 1, 1], [1, 1, 1], ["a", "b", "c"])
    assert (alone.low, alone.high) == (0, 1)


def test_weights_and_repetition():
    """Catches weights that are ignored, items without weight that count, and intervals that differ by the run."""
    found = mean_of([0, 1, 1, 0.5], [3, 1, 0, 0])
    assert found.mean == 0.25 and found.n == 2 and (found.low, found.high) == (0, 1)
    assert mean_of([0, 1, 1]) == mean_of([0, 1, 1])
    alone = mean_of([1])
    assert (alone.mean, alone.low, alone.high, alone.n) == (1, 1, 1, 1)
