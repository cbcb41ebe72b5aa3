"""Which item each row uses: every image once in an epoch, sources by their weights, in little memory."""

import threading
import tracemalloc
from bisect import bisect_right
from itertools import accumulate

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.training.data.ahead import Ahead
from blip3o_core.training.data.order import ROWS, ShuffledOrder, WindowedOrder, order_of, share_rows


class Part:
    def __init__(self, count: int, units: list[int] | None = None):
        self.count, self.units = count, units

    def __len__(self) -> int:
        return self.count


def streamed(*sizes: int) -> Part:
    return Part(sum(sizes), list(sizes))


def test_every_epoch_of_shards_shows_everything_once():
    """Catches items left out or shown twice at the seams of shards and windows, and the same order in every epoch."""
    sizes = [1000, 0, 1300, 7, 950] * 16  # 52,112 items of 80 shards, in three windows
    count, ends = sum(sizes), list(accumulate(sizes))
    order = WindowedOrder(sizes, seed=3)
    epochs = [[order.index(position) for position in range(first, first + count)] for first in (0, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs) and epochs[0] != epochs[1]
    again, places = WindowedOrder(sizes, seed=3), [count + 5, 3, count - 1]
    assert [again.index(position) for position in places] == [epochs[1][5], epochs[0][3], epochs[0][-1]]
    assert [WindowedOrder(sizes, seed=4).index(position) for position in range(99)] != epochs[0][:99]
    # Rows after one another are of a few shards from anywhere, and mixed.
    shards = [bisect_right(ends, item) for item in epochs[0]]
    assert len(set(shards[: count // 5])) < 80 / 3 and max(shards[:100]) - min(shards[:100]) > 40
    assert len(set(shards[:100])) > 8


def test_the_order_of_27_million_items_needs_no_memory():
    """Catches a permutation of all items, or an object for each."""
    sizes = [5000] * 5400
    tracemalloc.start()
    order = WindowedOrder(sizes, seed=0)
    found = [order.index(position) for position in (*range(500), *range(20_000_000, 20_000_500), 27_000_000 * 3)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 and len(set(found[:1000])) == 1000 and max(found) < 27_000_000
    assert len(order._of_window(0, 0).permutation) < 100_000  # torch's memory is not traced


@pytest.mark.parametrize("weights", [[3, 1], [0.7, 0.2, 0.1], [1, 1, 1], [2, 3, 5, 7, 11], [1e4, 1]], ids=str)
def test_weights_are_kept_in_every_thousand_rows(weights):
    """Catches shares that are right only on average: a rare source would be missing for long, or come all at once."""
    parts = [Part(50 + k) if k % 2 else streamed(*[20 + k] * 3) for k in range(len(weights))]
    firsts = [sum(map(len, parts[:k])) for k in range(len(parts) + 1)]
    order = order_of(parts, weights, seed=1)
    items = [order.index(position) for position in range(3 * ROWS)]
    sources = [max(k for k in range(len(parts)) if firsts[k] <= item) for item in items]
    for source, weight in enumerate(weights):
        share = ROWS * weight / sum(weights)
        counts = [sources[first : first + ROWS].count(source) for first in range(0, 2 * ROWS, 7)]
        assert all(abs(count - share) <= 1 for count in counts), (source, share, counts)
        own = [item for item in items if firsts[source] <= item < firsts[source + 1]]
        epochs = [own[k : k + len(parts[source])] for k in range(0, len(own), len(parts[source]))]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert len(epochs) < 3 or epochs[0] != epochs[1]
    for position in (2999, 1234, 0):
        assert order_of(parts, weights, seed=1).index(position) == items[position]


def test_shares_add_up():
    """Catches a source that never has its turn, and turns that belong to nobody."""
    assert share_rows([1]) == [1000] and share_rows([1, 1, 1]) == [334, 333, 333]
    assert share_rows([1] * 1000) == [1] * 1000
    assert share_rows([1e9, *[1] * 9]) == [991, *[1] * 9]


def test_the_order_of_other_sources_is_what_it_was():
    """Catches a run that resumes in another order than it began with, though nothing of its data was changed."""
    order = order_of([Part(30), Part(20)], None, 7)
    plain = ShuffledOrder(50, 7)
    assert [order.index(k) for k in range(120)] == [plain.index(k) for k in range(120)]
    # With shards among them all items come once in an epoch, too.
    mixed = order_of([Part(2500), streamed(3, 4)], None, 7)
    assert sorted(mixed.index(k) for k in range(2507)) == list(range(2507))


def test_several_steps_are_prepared_at_once_and_given_in_order():
    """Catches workers that wait for each other, steps that overtake, and an error that comes at another step."""
    together = threading.Barrier(2, timeout=60)

    def prepare(step: int) -> int:
        if step < 4:
            together.wait()
        if step == 5:
            raise Blip3oError("step 5")
        return step

    ahead = Ahead(prepare, 7, workers=2)
    assert [ahead.get(step) for step in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(Blip3oError, match="step 5"):
        ahead.get(5)
    assert ahead.get(6) == 6 and ahead.get(6) == 6
    ahead.close()
