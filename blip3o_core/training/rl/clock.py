"""Where the seconds of an update go."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by name, until they are taken."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - began

    def take(self) -> dict[str, float]:
        """All seconds since the last call."""
        spent, self._spent = self._spent, {}
        return spent
