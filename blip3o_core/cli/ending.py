"""How a command ends early: on a signal, with its parent, or with the program that reads its output."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

WORKER = "BLIP3O_WORKER"  # environment variable of a process that `processes.launch` started
GRACE = 10.0  # seconds to put things in order, then the process ends as it is


class Ended(KeyboardInterrupt):
    """A signal asked this process to end; everything that handles Ctrl-C handles it likewise."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Ended while the block runs, so that scratch files and worker processes are ended, too.

    A signal that somebody else handles or ignores, as nohup does, stays as it is.
    """
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    own = threading.current_thread() is threading.main_thread()
    found = [number for number in signals if own and signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, _) -> None:
        for one in found:  # a second signal must not disturb the end
            signal.signal(one, signal.SIG_IGN)
        raise Ended(number)

    try:
        for number in found:
            signal.signal(number, end)
        yield
    finally:
        for number in found:
            signal.signal(number, signal.SIG_DFL)


def is_worker() -> bool:
    """Whether another process of this program started this one and speaks for it."""
    return WORKER in os.environ


def end_with_parent() -> None:
    """In a worker: end when the process that started it has ended, however it ended. Its end closes our input."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes that are started in the block do not hear Ctrl-C. This one does, when the block ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def drop_output() -> None:
    """Send what is left of standard output nowhere: its reader has gone, or its disk is full."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
