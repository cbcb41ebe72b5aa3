"""The backend of a Ray cluster: one task of Ray for each piece. All files are on disks that each machine sees.

Ray is used by a process of its own, `driver.py`: it changes the process that it is imported in, and takes from that
process's variables alone that it shall listen on loopback only.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...errors import Blip3oError

ADDRESS = "RAY_ADDRESS"  # Ray's own variable for the cluster to join
_ALONE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: listen on loopback only
}
_PATIENCE = 20  # seconds for Ray to end
_GONE = (
    "The process that speaks to Ray ended without an answer. The lines above may say why. Run the same command again: "
    "what is finished is kept."
)


class Cluster:
    """Ray, as long as `connected` holds it."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def run(
        self, function: Callable[..., Any], tasks: Sequence[tuple], workers: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """(number of the task, what `function(*task)` returns) as they are done, by at most `workers` at once; None:
        as many as the cluster has cores. What one raises ends all. `function` is a module's own.
        """
        self.send((function, list(tasks), workers))
        while (answer := self.receive()) is not None:
            yield answer

    def send(self, request: Any) -> None:
        stream = self._process.stdin
        try:
            pickle.dump(request, stream)  # type: ignore[arg-type]
            stream.flush()  # type: ignore[union-attr]
        except OSError:
            raise Blip3oError(_GONE) from None

    def receive(self) -> Any:
        """What the driver says next. Raises what it could not do."""
        try:
            good, answer = pickle.load(self._process.stdout)  # type: ignore[arg-type]  # noqa: S301 (our own process)
        except EOFError:
            raise Blip3oError(_GONE) from None
        if not good:
            raise answer
        return answer


@contextlib.contextmanager
def connected(workers: int) -> Iterator[Cluster]:
    """Ray runs while the block does: the cluster of RAY_ADDRESS, or a new one of this machine with so many `workers`.
    What was started or joined here is left at the end, also when this process is killed.

    Raises Blip3oError where Ray is missing or the cluster cannot be reached.
    """
    address = os.environ.get(ADDRESS)
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.driver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **({} if address else _ALONE), "PYTHONPATH": paths},
        start_new_session=True,  # Ctrl-C is for this process; the other ends with it
    )
    try:
        cluster = Cluster(process)
        cluster.send((address, workers))
        cluster.receive()
        yield cluster
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]
