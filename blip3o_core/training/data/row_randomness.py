"""The random numbers of one training row, as a function of seed, step and row alone."""

import hashlib
from typing import NamedTuple

import torch


class RowRandomness(NamedTuple):
    """Numbers are in [0, 1)."""

    timestep: float
    dropout: float
    caption: float  # which of several captions
    noise: torch.Tensor  # (C, h, w)


def row_randomness(seed: int, step: int, row: int, shape: tuple[int, ...]) -> RowRandomness:
    """For row `row` of all rows of a step; `shape` is that of the noise, (C, h, w).

    The key does not contain processes or microbatches: a row gets the same noise however the batch is divided.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{row}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    timestep, dropout = torch.rand(2, generator=generator).tolist()
    noise = torch.randn(shape, generator=generator)
    return RowRandomness(timestep, dropout, float(torch.rand(1, generator=generator)), noise)
