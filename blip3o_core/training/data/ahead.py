"""The rows of the next steps are prepared by threads while this step is computed: read, decoded and tokenized.

The networks stay with the thread that asks: what is computed, and in which order, does not depend on this.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`prepare(step)` for one step after the other, some steps ahead of who asks for them."""

    def __init__(self, prepare: Callable[[int], T], last: int, workers: int = 1):
        """`last`: the first step that is never asked for. Each worker prepares one step ahead."""
        self._prepare, self._last, self._workers = prepare, last, workers
        self._threads = ThreadPoolExecutor(workers, "training data")
        self._steps: dict[int, Future[T]] = {}

    def get(self, step: int) -> T:
        """What `prepare(step)` gives, or raises. The steps behind it are begun."""
        if step not in self._steps:
            self._forget()
        for number in range(step, min(step + 1 + self._workers, max(step + 1, self._last))):
            if number not in self._steps:
                self._steps[number] = self._threads.submit(self._prepare, number)
        return self._steps.pop(step).result()

    def close(self) -> None:
        """End the threads, after what they are doing."""
        self._forget()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _forget(self) -> None:
        for future in self._steps.values():
            future.cancel()
        self._steps.clear()
