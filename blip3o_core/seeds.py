"""One generator for each row of a batch, on the CPU, so that a seed means the same on every device."""

import torch

COUNT = 2**64


def row_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """The seeds of `count` rows from row `first` on: row k has `seed + k`, which wraps at 2**64."""
    return [(seed + first + k) % COUNT for k in range(count)]


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU. Seeds from 2**64 on wrap, as in `row_seeds`."""
    return torch.Generator("cpu").manual_seed(seed % COUNT)
