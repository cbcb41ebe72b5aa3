"""The backend of one machine: a pool of processes, one piece at a time each."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ...errors import Blip3oError

WORKER_ENDED = (
    "A worker process ended without an answer, perhaps because memory is full. Choose fewer `workers`, and run the "
    "same command again: what is finished is kept."
)


def run(function: Callable[..., Any], tasks: Sequence[tuple], workers: int) -> Iterator[tuple[int, Any]]:
    """(number of the task, what `function(*task)` returns) as they are done, by `workers` processes.

    What one raises ends all. `function` is a module's own. With one worker, or one task, all happens in this process.
    """
    if workers <= 1 or len(tasks) <= 1:
        for number, task in enumerate(tasks):
            yield number, function(*task)
        return
    pool = ProcessPoolExecutor(min(workers, len(tasks)), _context(), _start)
    numbers: dict[Future, int] = {}
    try:
        numbers = {pool.submit(function, *task): number for number, task in enumerate(tasks)}
        for done in as_completed(numbers):
            yield numbers[done], done.result()
    except BrokenProcessPool:
        raise Blip3oError(WORKER_ENDED) from None
    finally:
        _end(pool, all(one.done() for one in numbers))


def processes(workers: int | None) -> int:
    """The number that `workers` means; None: one for each core that this process may use."""
    if workers is not None:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _context() -> Any:
    """How processes start: not as copies of this one, whose threads they would lack."""
    return multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )


def _end(pool: ProcessPoolExecutor, finished: bool) -> None:
    """End the pool; at once where work is left. Files that are half written then have no name yet."""
    if not finished:
        for process in list((pool._processes or {}).values()):
            with contextlib.suppress(OSError, ValueError):
                process.terminate()
    pool.shutdown(cancel_futures=True)


def _start() -> None:
    """In a new process: leave Ctrl-C to the one that started it, and end when that has ended, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), name="end with parent", daemon=True).start()


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)
