"""Seeds: one generator per row of a batch, on the CPU, so that a seed means the same on every device."""

import torch

COUNT = 2**64


def row_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """Seed of row k is `seed + k`; it wraps at 2**64."""
    return [(seed + first + k) % COUNT for k in range(count)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed % COUNT)
