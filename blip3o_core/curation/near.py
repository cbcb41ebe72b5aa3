"""Which 64-bit hashes are near each other: all pairs, and none missed, without comparing all with all.

Cut the bits into m blocks. Two hashes that differ in at most d bits agree in m - d blocks or more, so every pair is
found among those that agree in some m - d of them: for each choice of blocks the hashes are sorted by these bits, and
only neighbours with equal ones are compared.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_BITS = 64
_SORT = 4.0  # what it takes to sort a hash, for each doubling of their number, in comparisons


@dataclass(frozen=True)
class Columns:
    """What near-duplicates are found by, a row for each sample, in the order of the sources.

    Two edits are alike only if their references are near, too, and their instructions have the same words.
    """

    hashes: "np.ndarray"  # uint64, of the targets
    pixels: "np.ndarray"  # of the targets; of two that are alike the larger one stays, then the first
    references: "np.ndarray | None" = None  # uint64, of the first references
    texts: "np.ndarray | None" = None  # uint64, digests of the texts


def duplicates(columns: Columns, distance: int) -> "np.ndarray":
    """For each row the row that stays instead of it, or -1 where it stays itself. None is dropped for a dropped one."""
    import numpy as np

    count = len(columns.hashes)
    best_first = np.lexsort((np.arange(count), -columns.pixels.astype(np.int64)))
    rank = np.empty(count, np.int64)
    rank[best_first] = np.arange(count)
    group, chosen = _equal(columns, rank)
    stands_for = _cover(columns, chosen, rank, distance)
    stays = chosen[stands_for[group]]
    stays[stays == np.arange(count)] = -1
    return stays


def _equal(columns: Columns, rank: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    """(the group of each row whose members are equal, the best row of each group)."""
    import numpy as np

    keys = [one for one in (columns.texts, columns.references, columns.hashes) if one is not None]
    order = np.lexsort((rank, *keys))
    new = np.zeros(len(order), bool)
    for key in keys:
        sorted_key = key[order]
        new[1:] |= sorted_key[1:] != sorted_key[:-1]
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new)
    starts = np.flatnonzero(np.concatenate([[True], new[1:]])) if len(order) else order
    return group, order[starts]


def _cover(columns: Columns, chosen: "np.ndarray", rank: "np.ndarray", distance: int) -> "np.ndarray":
    """For each group the group that stays instead of it, or itself: the best ones first."""
    import numpy as np

    edges = [
        _alike(columns, chosen, first, second, distance)
        for first, second in near_pairs(columns.hashes[chosen], distance)
    ]
    stands_for = np.arange(len(chosen))
    if not edges:
        return stands_for
    pairs = np.concatenate(edges)
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    starts = np.searchsorted(pairs[:, 0], np.arange(len(chosen) + 1))
    decided = np.zeros(len(chosen), bool)
    linked = np.unique(pairs[:, 0])
    for one in linked[np.argsort(rank[chosen[linked]])]:
        if decided[one]:
            continue
        decided[one] = True
        near = pairs[starts[one] : starts[one + 1], 1]
        near = near[~decided[near]]
        stands_for[near], decided[near] = one, True
    return stands_for


def _alike(
    columns: Columns, chosen: "np.ndarray", first: "np.ndarray", second: "np.ndarray", distance: int
) -> "np.ndarray":
    """Those pairs of groups whose references and texts are alike, too."""
    import numpy as np

    left, right = chosen[first], chosen[second]
    alike = np.ones(len(first), bool)
    if columns.references is not None:
        alike &= np.bitwise_count(columns.references[left] ^ columns.references[right]) <= distance
    if columns.texts is not None:
        alike &= columns.texts[left] == columns.texts[right]
    return np.stack([first[alike], second[alike]], axis=1)


def near_pairs(hashes: "np.ndarray", distance: int) -> Iterator[tuple["np.ndarray", "np.ndarray"]]:
    """(numbers of the first, numbers of the second) of all pairs at most `distance` bits apart; some come twice."""
    import numpy as np

    for mask in _masks(len(hashes), distance):
        masked = hashes & np.uint64(mask)
        order = np.argsort(masked, kind="stable")
        masked = masked[order]
        places, step = np.arange(len(order)), 0
        while len(places):
            step += 1
            places = places[places < len(order) - step]
            places = places[masked[places] == masked[places + step]]
            first, second = order[places], order[places + step]
            near = np.bitwise_count(hashes[first] ^ hashes[second]) <= distance
            if near.any():
                yield first[near], second[near]


def nearest(hashes: "np.ndarray", known: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    """For each hash (the smallest distance to a known one, the number of that)."""
    import numpy as np

    least, which = np.full(len(hashes), _BITS + 1, np.int64), np.zeros(len(hashes), np.int64)
    for number, one in enumerate(known):
        apart = np.bitwise_count(hashes ^ one)
        better = apart < least
        least[better], which[better] = apart[better], number
    return least, which


def _masks(count: int, distance: int) -> Iterator[int]:
    """The bits to sort by, one mask for each choice of blocks; as many blocks as make the least work."""

    def work(blocks: int) -> float:
        agreeing = blocks - distance
        compared = count / 2 ** (_BITS * agreeing / blocks)
        return math.comb(blocks, agreeing) * (_SORT * math.log2(count + 2) + compared)

    blocks = min(range(distance + 1, distance + 5), key=work)
    ends = [_BITS * k // blocks for k in range(blocks + 1)]
    each = [((1 << (end - start)) - 1) << start for start, end in itertools.pairwise(ends)]
    for some in itertools.combinations(each, blocks - distance):
        yield _union(some)


def _union(masks: Sequence[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found
