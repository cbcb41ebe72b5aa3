"""The next step's rows are prepared by a thread while this step is computed: read, decoded and tokenized.

The networks stay with the thread that asks: what is computed, and in which order, does not depend on this.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`prepare(step)` for one step after the other, one step ahead of who asks for it."""

    def __init__(self, prepare: Callable[[int], T], last: int):
        """`last`: the first step that is never asked for."""
        self._prepare, self._last = prepare, last
        self._thread = ThreadPoolExecutor(1, "training data")
        self._next: tuple[int, Future[T]] | None = None

    def get(self, step: int) -> T:
        """What `prepare(step)` gives, or raises; then the step behind it is begun."""
        step_ahead, future = self._next or (None, None)
        self._next = None
        if future is None or step_ahead != step:
            future = self._thread.submit(self._prepare, step)
        prepared = future.result()
        if step + 1 < self._last:
            self._next = step + 1, self._thread.submit(self._prepare, step + 1)
        return prepared

    def close(self) -> None:
        """End the thread, after what it is doing."""
        self._thread.shutdown(wait=True, cancel_futures=True)
