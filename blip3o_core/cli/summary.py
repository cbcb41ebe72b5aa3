"""What a run says when it is done: how many images, in how many seconds, and what took them."""

import contextlib
import time
from collections.abc import Iterator


class Summary:
    """Counts seconds from when it is made; `with summary.part("tokens")` says what they are spent on."""

    def __init__(self) -> None:
        self.images = self.tokens = 0
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def loaded(self) -> None:
        """Everything so far was loading."""
        self._seconds["loading"] = time.perf_counter() - self._started

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def __str__(self) -> str:
        """ "2 images in 4.1 s: loading 1.2 s, tokens 0.9 s (71 a second), diffusion 2.0 s"."""
        parts = [f"{name} {seconds:.1f} s{self._rate(name, seconds)}" for name, seconds in self._seconds.items()]
        images = "1 image" if self.images == 1 else f"{self.images} images"
        return f"{images} in {time.perf_counter() - self._started:.1f} s: {', '.join(parts)}"

    def _rate(self, name: str, seconds: float) -> str:
        return f" ({self.tokens / seconds:,.0f} a second)" if name == "tokens" and self.tokens and seconds else ""
