"""Near-duplicates against a comparison of all with all."""

import numpy as np
import pytest

from blip3o_core.curation.near import Columns, duplicates, near_pairs, nearest


def hashes(random: np.random.Generator, count: int, distance: int) -> np.ndarray:
    """Half of them near others, at about the distance that is looked for."""
    found = random.integers(0, 2**64, count, np.uint64)
    for place in range(max(1, count // 2), count):
        bits = random.choice(64, int(random.integers(0, distance + 3)), replace=False)
        found[place] = found[random.integers(0, place)] ^ np.bitwise_or.reduce(
            np.uint64(1) << bits.astype(np.uint64), initial=0
        )
    return found


@pytest.mark.parametrize("distance", [0, 1, 4, 9, 16])
def test_no_pair_is_missed(distance):
    """Catches bands that two near hashes do not share, and pairs that are further apart."""
    found = hashes(np.random.default_rng(distance), 300, distance)
    pairs = {
        tuple(sorted(one))
        for first, second in near_pairs(found, distance)
        for one in zip(first.tolist(), second.tolist(), strict=True)
    }
    apart = np.bitwise_count(found[:, None] ^ found[None])
    assert pairs == {(int(i), int(j)) for i, j in np.argwhere(apart <= distance) if i < j}


def test_the_largest_stays_then_the_first():
    """Catches a duplicate that stays, a dropped one without any near one that stays, and an order that varies."""
    random, distance = np.random.default_rng(5), 4
    for count in (0, 1, 2, 200):
        found, pixels = hashes(random, count, distance), random.integers(1, 4, count)
        instead = duplicates(Columns(found, pixels), distance)
        kept: list[int] = []
        for place in sorted(range(count), key=lambda k: (-pixels[k], k)):
            near = [k for k in kept if np.bitwise_count(found[place] ^ found[k]) <= distance]
            assert (instead[place] in near) if near else instead[place] == -1
            kept += [] if near else [place]


def test_edits_are_alike_only_with_their_references_and_texts():
    """Catches two instructions for one image of which one is dropped."""
    same = np.zeros(4, np.uint64)
    references, texts = np.array([0, 0, 2**40 - 1, 0], np.uint64), np.array([1, 2, 1, 1], np.uint64)
    assert duplicates(Columns(same, np.ones(4, int), references, texts), 4).tolist() == [-1, -1, -1, 0]


def test_the_nearest_of_known_hashes():
    """Catches a distance to the wrong image of an evaluation."""
    distance, which = nearest(np.array([0, 7], np.uint64), np.array([2**63, 3], np.uint64))
    assert distance.tolist() == [1, 1] and which.tolist() == [0, 1]
