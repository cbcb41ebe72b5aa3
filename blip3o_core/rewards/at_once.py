"""Several questions at a time, each in a thread: servers answer many at once as fast as one."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Found = TypeVar("Found")


def each_at_once(work: Callable[[Job], Found], jobs: Sequence[Job], at_once: int) -> list[Found]:
    """What `work` gives for each job, in their order; `at_once` jobs at most are worked on at a time.

    An exception of `work` ends it: what is on its way is waited for, nothing new begins, and the first one is raised.
    """
    waiting = deque(enumerate(jobs))
    found: dict[int, Found] = {}
    faults: list[BaseException] = []

    def go() -> None:
        while waiting and not faults:
            try:
                place, job = waiting.popleft()
            except IndexError:  # another thread took the last
                return
            try:
                found[place] = work(job)
            except BaseException as error:
                faults.append(error)

    # Daemons: a server that never answers must not keep the process from ending, as a pool's threads would.
    threads = [threading.Thread(target=go, daemon=True) for _ in range(min(at_once, len(jobs)))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if faults:
        raise faults[0]
    return [found[place] for place in range(len(jobs))]
