"""Data that processes make while the part that needs it computes. A card takes a step in less time than its data.

Everything random in the data comes from its number alone, so it is the same whoever makes it.
"""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Made = TypeVar("Made")
_MOST = 14  # processes


class _Pickled(Dataset):
    """What is made as bytes: tensors would take shared memory, of which containers have little."""

    def __init__(self, make: Callable[[int], object]):
        self._make = make

    def __getitem__(self, number: int) -> bytes:
        return pickle.dumps(self._make(number), pickle.HIGHEST_PROTOCOL)


def made_ahead(make: Callable[[int], Made], numbers: range, workers: int) -> Iterator[Made]:
    """`make(number)` of each number in order, by that many processes, or between the caller's steps without any.

    The processes are copies of this one, so `make` may be any function; it must not use a card.
    """
    workers = min(workers, len(numbers))
    if not workers:
        yield from map(make, numbers)
        return
    loader = DataLoader(
        _Pickled(make),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_same,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else it would draw from the process's own
    )
    for found in loader:
        yield pickle.loads(found)  # noqa: S301 (of processes that this one started)


def workers_for(device: str) -> int:
    """Processes for a card, which would wait for one. There are none beside training on the CPU, and on Windows."""
    forks = "fork" in multiprocessing.get_all_start_methods()
    return 0 if device == "cpu" or not forks else max(1, min(_MOST, (os.cpu_count() or 1) - 1))


def _same(found: bytes) -> bytes:
    return found
