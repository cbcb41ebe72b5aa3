"""Which item each row of a run uses: a function of the seed and of the row's position, and of nothing else.

So a run resumes at any row, and processes take rows of one order, without a state that could be lost.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch

ROWS = 1000  # in so many rows after one another the shares of weighted sources are kept
# At least so many shards, and items, are mixed with each other at a time.
_SHARDS, _ITEMS = 16, 16_384
_RUN = 1000  # neighbouring items that are read one after the other where a source has no shards


class Order(Protocol):
    def index(self, position: int) -> int:
        """The item of a row; `position` counts rows from the beginning of the run. Any thread may call it."""


class Part(Protocol):
    """What the order must know of a source."""

    units: list[int] | None  # items of each shard; None: its items may be read in any order

    def __len__(self) -> int: ...


def order_of(parts: Sequence[Part], weights: Sequence[float] | None, seed: int) -> Order:
    """The order of the items of all parts, which are numbered one part after the other."""
    if weights is not None:
        orders = [_order_of_one(part, _seed_of(seed, number)) for number, part in enumerate(parts)]
        return WeightedOrder(orders, [len(part) for part in parts], weights)
    if all(part.units is None for part in parts):
        return ShuffledOrder(sum(map(len, parts)), seed)
    return WindowedOrder([size for part in parts for size in part.units or _runs(len(part))], seed)


def _order_of_one(part: Part, seed: int) -> Order:
    return ShuffledOrder(len(part), seed) if part.units is None else WindowedOrder(part.units, seed)


def _runs(count: int) -> list[int]:
    return [min(_RUN, count - first) for first in range(0, count, _RUN)]


def _seed_of(*key: int) -> int:
    return int.from_bytes(sha256(repr(key).encode()).digest()[:7], "big")


def _permutation(count: int, seed: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator("cpu").manual_seed(seed))


class ShuffledOrder:
    """Every epoch has its own permutation of all items, which takes eight bytes for each."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._of_epoch = lru_cache(2)(self._shuffle)

    def index(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        return int(self._of_epoch(epoch)[place])

    def _shuffle(self, epoch: int) -> torch.Tensor:
        # A generator takes 64 bits; seeds beyond them would be an error of torch's.
        return _permutation(self.count, (self.seed * 1_000_003 + epoch) % 2**63)


class WindowedOrder:
    """Every epoch shows all items once: shards in an order of the epoch's own, the items of some of them mixed.

    Its memory is that of a few windows, and eight bytes for each shard.
    """

    def __init__(self, sizes: Sequence[int], seed: int):
        """`sizes`: items of each shard, which are numbered one shard after the other."""
        self.seed, self._sizes = seed, array("Q", sizes)
        self._firsts = array("Q", accumulate(sizes, initial=0))
        self.count = self._firsts[-1]
        self._windows = max(1, min(len(sizes) // _SHARDS, self.count // _ITEMS))
        self._of_epoch, self._of_window = lru_cache(2)(self._shuffle), lru_cache(4)(self._mix)

    def index(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        window = bisect_right(self._of_epoch(epoch).ends, place)
        mixed = self._of_window(epoch, window)
        number = int(mixed.permutation[place - mixed.first])
        shard = bisect_right(mixed.ends, number)
        return self._firsts[mixed.shards[shard]] + number - (mixed.ends[shard - 1] if shard else 0)

    def _shuffle(self, epoch: int) -> "_Epoch":
        count = len(self._sizes)
        shards = array("Q", _permutation(count, _seed_of(self.seed, epoch)).tolist())
        cuts = [count * k // self._windows for k in range(self._windows + 1)]
        ends = list(accumulate(self._sizes[shard] for shard in shards))
        return _Epoch(shards, cuts, [ends[cut - 1] for cut in cuts[1:]])

    def _mix(self, epoch: int, window: int) -> "_Window":
        shards, cuts, ends = self._of_epoch(epoch)
        chosen = shards[cuts[window] : cuts[window + 1]]
        inside = list(accumulate(self._sizes[shard] for shard in chosen))
        permutation = _permutation(inside[-1], _seed_of(self.seed, epoch, window))
        return _Window(chosen, inside, permutation, ends[window - 1] if window else 0)


class _Epoch(NamedTuple):
    shards: array  # in the order of the epoch
    cuts: list[int]  # the first of them in each window, and their count
    ends: list[int]  # items up to the end of each window


class _Window(NamedTuple):
    shards: array
    ends: list[int]  # items of the window up to the end of each shard
    permutation: torch.Tensor
    first: int  # items of the epoch before the window


class WeightedOrder:
    """Sources by turns: any `ROWS` rows after one another have as many of each source as its weight asks for.

    Each source has epochs of its own.
    """

    def __init__(self, orders: Sequence[Order], counts: Sequence[int], weights: Sequence[float]):
        self._orders, self._firsts = list(orders), list(accumulate(counts, initial=0))
        self.rows = share_rows(weights)
        # The rows of a source stand as far from each other as they can.
        turns = sorted(
            ((turn + 0.5) / rows, source, turn) for source, rows in enumerate(self.rows) for turn in range(rows)
        )
        self._turns = [(source, turn) for _, source, turn in turns]

    def index(self, position: int) -> int:
        period, row = divmod(position, ROWS)
        source, turn = self._turns[row]
        return self._firsts[source] + self._orders[source].index(period * self.rows[source] + turn)


def share_rows(weights: Sequence[float]) -> list[int]:
    """How many of `ROWS` rows each source gets: its share within one row, and at least one."""
    shares = [ROWS * weight / sum(weights) for weight in weights]
    rows = [max(1, int(share)) for share in shares]
    while sum(rows) != ROWS:
        step = 1 if sum(rows) < ROWS else -1
        off = [step * (share - have) for share, have in zip(shares, rows, strict=True)]
        rows[max((k for k, have in enumerate(rows) if have + step), key=off.__getitem__)] += step
    return rows
