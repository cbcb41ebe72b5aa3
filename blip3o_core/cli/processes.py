"""Several processes that share a list of work, told apart by the environment variables of torchrun and accelerate.

A hash of an item decides which process does it, so processes need not talk. What a dead process left undone, the next
run does.
"""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import Blip3oError, first_line
from .ending import GRACE, WORKER, interrupts_blocked

# The folder of the library: Python runs it wherever it lies, installed or not.
PROGRAM = [str(Path(__file__).parents[1])]


def rank_and_count() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a launcher."""
    rank, count = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdigit() and count.isdigit() and int(rank) < int(count)):
        raise Blip3oError(
            f"The environment has RANK {rank!r} and WORLD_SIZE {count!r}. Set 0 <= RANK < WORLD_SIZE, or unset both."
        )
    return int(rank), int(count)


def is_mine(item: str) -> bool:
    """Whether this process does `item`. Every item belongs to exactly one process."""
    rank, count = rank_and_count()
    return int.from_bytes(hashlib.sha256(item.encode()).digest()[:8], "big") % count == rank


def own_device(device):
    """`device`; where it is just "cuda", the GPU for this process's number on its machine."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK", "0")
    if device.type != "cuda" or device.index is not None or not local_rank.isdigit():
        return device
    return torch.device("cuda", int(local_rank) % torch.cuda.device_count())


def launch(count: int, words: list[str]) -> int:
    """Run the command `words` in `count` processes -> the first exit status that is not 0, else 0.

    When one process fails or this one ends, however that happens, the others end. The next run does what they left.
    """
    running: list[subprocess.Popen] = []
    try:
        for rank in range(count):
            running.append(_start(rank, count, words))
        waiting = list(enumerate(running, 1))
        while waiting:
            for number, process in list(waiting):
                try:
                    status = process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
                waiting.remove((number, process))
                if status < 0 or status > 128:
                    name = _signal_name(-status if status < 0 else status - 128)
                    raise Blip3oError(
                        f"Process {number} of {count} was ended by {name}. The system does that when memory is full: "
                        "choose fewer processes or a smaller --batch. Run the same command again to make the rest."
                    )
                if status:
                    return status
        return 0
    finally:
        _end(running)


def start(words: list[str], variables: Mapping[str, str], **streams) -> subprocess.Popen:
    """The command `words` in a process that ends when this one does, however that happens.

    `variables`: of its environment, besides ours. `streams`: as for Popen, where its output shall not be ours.
    """
    with interrupts_blocked():
        return subprocess.Popen(
            [sys.executable, *PROGRAM, *words],
            env={**os.environ, **variables, WORKER: "1"},
            stdin=subprocess.PIPE,  # never written to: its end is how a process learns of ours
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            **streams,
        )


def _start(rank: int, count: int, words: list[str]) -> subprocess.Popen:
    ours = {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        return start(words, ours)
    except OSError as error:
        raise Blip3oError(
            f"Process {rank + 1} of {count} cannot be started: {first_line(error)}. Choose a smaller --num-processes."
        ) from error


def _end(running: list[subprocess.Popen]) -> None:
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
