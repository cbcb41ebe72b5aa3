"""The process in which Ray is used, see `cluster.py`: takes tasks from its standard input, and answers on its output.

These are plain tasks, not a Ray Data pipeline: what a pass makes of a piece is files, so there are no rows to stream,
and a worker that imports no more than the pass needs starts seconds sooner.
"""

import contextlib
import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from ...errors import Blip3oError, first_line
from .cluster import ADDRESS
from .local import WORKER_ENDED

if TYPE_CHECKING:
    from ray import ObjectRef

_STORE = 80 * 2**20  # bytes for what tasks take and return, which is small; Ray asks for 75 MB at least
_LOOK = 0.5  # seconds between two looks whether the command that asked is still there


class _Left(Exception):
    """Whoever started this process has ended, or wants no more answers."""


class _Requests:
    """What comes on the standard input, read by a thread: so its end is seen while Ray works."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._found = stream, queue.SimpleQueue[Any]()
        self.ended = threading.Event()
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def next(self) -> Any:
        """Raises _Left, or what kept a request from being understood."""
        request = self._found.get()
        if isinstance(request, Exception):
            raise request
        return request

    def _read(self) -> None:
        while not self.ended.is_set():
            try:
                request = pickle.load(self._stream)  # noqa: S301 (of the process that started this one)
            except EOFError:
                self.ended.set()
                request = _Left()
            except Exception as error:  # of many kinds: a module that cannot be imported has its own
                request = error
            self._found.put(request)


class _Answers:
    """The standard output, for answers alone: what Ray prints goes to the standard error."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._stream = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def say(self, good: bool, answer: Any) -> None:
        """Raises _Left."""
        try:
            pickle.dump((good, answer), self._stream)
            self._stream.flush()
        except OSError:
            raise _Left from None


def main() -> None:
    answers, requests = _Answers(), _Requests(sys.stdin.buffer)
    with contextlib.suppress(_Left):
        try:
            ray = _started(*requests.next())
        except Blip3oError as error:
            answers.say(False, error)
            return
        try:
            answers.say(True, None)
            while True:
                _answer(requests, answers)
        finally:
            ray.shutdown()


def _answer(requests: _Requests, answers: _Answers) -> None:
    """Do what the next request asks for."""
    try:
        function, tasks, workers = requests.next()
        for done in _run(function, tasks, workers, requests.ended):
            answers.say(True, done)
        answers.say(True, None)
    except _Left:
        raise
    except Exception as error:  # it is raised where the tasks came from
        answers.say(False, error)


def _started(address: str | None, workers: int) -> Any:
    """Ray, joined to a cluster, or started on this machine. Raises Blip3oError."""
    try:
        import ray
    except ImportError as error:
        raise Blip3oError(
            f"backend 'ray' needs more packages: {error}. Install them with pip install -e '.[cluster]' in the "
            "folder of this project, or choose backend 'local'."
        ) from None
    how: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if not address:
        ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=_STORE, **how)
        return ray
    try:
        ray.init(address, **how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Blip3oError(
            f"The Ray cluster of {ADDRESS} ({address}) cannot be joined: {first_line(error)}. Start it, correct "
            f"{ADDRESS}, or unset it to start Ray on this machine."
        ) from None
    return ray


def _run(
    function: Callable[..., Any], tasks: Sequence[tuple], workers: int | None, ended: threading.Event
) -> Iterator[tuple[int, Any]]:
    """See `Cluster.run`. Raises _Left when `ended`."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    # As on one machine, nothing is tried again here: the command can be, and keeps what is finished.
    remote = ray.remote(num_cpus=1, max_retries=0)(_call)
    numbers: dict[ObjectRef, int] = {}
    try:
        for number, task in enumerate(tasks):
            numbers[remote.remote(function, task)] = number
            while numbers and len(numbers) == workers:
                yield from _finished(numbers, ended)
        while numbers:
            yield from _finished(numbers, ended)
    except RayTaskError as error:
        raise Blip3oError(
            f"A worker of the cluster cannot run a piece: {first_line(error.cause or error)}. Install the same version "
            "of this project with the extra `curate` on each machine of the cluster."
        ) from None
    except RayError:
        raise Blip3oError(WORKER_ENDED) from None
    finally:
        for one in numbers:
            ray.cancel(one, force=True)


def _finished(numbers: "dict[ObjectRef, int]", ended: threading.Event) -> Iterator[tuple[int, Any]]:
    """Wait for a task, take it out of `numbers` -> its number and what it returned. Raises what it raised."""
    import ray

    done: list[ObjectRef] = []
    while not done:
        if ended.is_set():
            raise _Left
        done, _ = ray.wait(list(numbers), timeout=_LOOK)
    number = numbers.pop(done[0])
    good, found = ray.get(done[0])
    if not good:
        raise found
    yield number, found


def _call(function: Callable[..., Any], task: tuple) -> tuple[bool, Any]:
    """On a worker. Errors travel as they are: Ray would wrap them in a message of its own."""
    try:
        return True, function(*task)
    except Exception as error:
        return False, error


if __name__ == "__main__":
    main()
