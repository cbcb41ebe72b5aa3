"""Ctrl-C and SIGTERM for commands that train: the first asks the run to finish its step and save, a second ends it."""

import signal
import sys
import threading
from types import FrameType


class Stopping:
    """`with Stopping() as stop`: stop() is true after a signal. `taken`: whether the run has seen that."""

    def __init__(self) -> None:
        self.status, self.taken = 0, False
        self._before: dict[int, object] = {}

    def __call__(self) -> bool:
        self.taken = self.taken or bool(self.status)
        return bool(self.status)

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # What somebody decided to ignore, as nohup does, stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.status = 128 + number
        again = "Send the signal again" if number == signal.SIGTERM else "Press Ctrl-C again"
        print(f"Stopping after this step, which is saved first. {again} to stop at once.", file=sys.stderr, flush=True)
        for one, handler in self._before.items():  # a second signal ends the command as any other
            signal.signal(one, handler)  # type: ignore[arg-type]
