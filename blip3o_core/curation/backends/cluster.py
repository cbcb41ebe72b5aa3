"""The backend of a Ray cluster: one task of Ray for each piece. All files are on disks that each machine sees.

These are plain tasks, not a Ray Data pipeline: what a pass makes of a piece is files, so there are no rows to stream,
and a worker that imports no more than the pass needs starts seconds sooner.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ...errors import Blip3oError, first_line
from .local import WORKER_ENDED

if TYPE_CHECKING:
    from ray import ObjectRef

ADDRESS = "RAY_ADDRESS"  # Ray's own variable for the cluster to join
_STORE = 80 * 2**20  # bytes for what tasks take and return, which is small; Ray asks for 75 MB at least
_ALONE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: listen on loopback only
}


@contextlib.contextmanager
def connected(workers: int) -> Iterator[None]:
    """Ray runs while the block does: the one that runs already, the cluster of RAY_ADDRESS, or a new one of this
    machine with so many `workers`. What was started or joined here is left at the end.

    Raises Blip3oError where Ray is missing or the cluster cannot be reached.
    """
    # Variables that nobody but Ray reads, and that it takes from nowhere else, while it is imported and started.
    with patch.dict(os.environ, {} if os.environ.get(ADDRESS) else _ALONE):
        try:
            import ray
        except ImportError as error:
            raise Blip3oError(
                f"backend 'ray' needs more packages: {error}. Install them with pip install -e '.[cluster]' in the "
                "folder of this project, or choose backend 'local'."
            ) from error
        ours = not ray.is_initialized()
        if ours:
            _start(ray, workers)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def run(function: Callable[..., Any], tasks: Sequence[tuple], workers: int | None) -> Iterator[tuple[int, Any]]:
    """(number of the task, what `function(*task)` returns) as they are done, by at most `workers` at once; None: as
    many as the cluster has cores. What one raises ends all. `function` is a module's own. Ray must run.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    # As on one machine, nothing is tried again here: the command can be, and keeps what is finished.
    remote = ray.remote(num_cpus=1, max_retries=0)(_call)
    left = iter(enumerate(tasks))
    numbers: dict[ObjectRef, int] = {}
    try:
        for number, task in left:
            numbers[remote.remote(function, task)] = number
            while numbers and len(numbers) == workers:
                yield from _finished(numbers)
        while numbers:
            yield from _finished(numbers)
    except RayTaskError as error:
        raise Blip3oError(
            f"A worker of the cluster cannot run a piece: {first_line(error.cause or error)}. Install the same version "
            "of this project with the extra `curate` on each machine of the cluster."
        ) from error
    except RayError:
        raise Blip3oError(WORKER_ENDED) from None
    finally:
        for one in numbers:
            ray.cancel(one, force=True)


def _finished(numbers: "dict[ObjectRef, int]") -> Iterator[tuple[int, Any]]:
    """Wait for a task, take it out of `numbers` -> its number and what it returned. Raises what it raised."""
    import ray

    (done, *_), _ = ray.wait(list(numbers))
    number = numbers.pop(done)
    good, found = ray.get(done)
    if not good:
        raise found
    yield number, found


def _call(function: Callable[..., Any], task: tuple) -> tuple[bool, Any]:
    """On a worker. Errors travel as they are: Ray would wrap them in a message of its own."""
    try:
        return True, function(*task)
    except Exception as error:
        return False, error


def _start(ray: Any, workers: int) -> None:
    address = os.environ.get(ADDRESS)
    how: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address:
        try:
            ray.init(address, **how)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Blip3oError(
                f"The Ray cluster of {ADDRESS} ({address}) cannot be joined: {first_line(error)}. Start it, correct "
                f"{ADDRESS}, or unset it to start Ray on this machine."
            ) from error
    else:
        ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=_STORE, **how)
