"""Several processes over one list of work, by environment variables as torchrun and accelerate set them.

Who does what is decided by a hash of the item, so nobody has to talk. What a dead process left, the next run does.
"""

import hashlib
import os
import subprocess
import sys

from ..errors import Blip3oError


def rank_and_count() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) outside of a launcher."""
    rank, count = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdigit() and count.isdigit() and int(rank) < int(count)):
        raise Blip3oError(f"RANK is {rank!r} and WORLD_SIZE {count!r}; a launcher sets 0 <= RANK < WORLD_SIZE.")
    return int(rank), int(count)


def is_mine(item: str) -> bool:
    """Whether this process does `item`; every item is exactly one process's."""
    rank, count = rank_and_count()
    return int.from_bytes(hashlib.sha256(item.encode()).digest()[:8], "big") % count == rank


def own_device(device):
    """`device`, or on a machine with several GPUs the one for this process's place there."""
    import torch

    place = os.environ.get("LOCAL_RANK", "0")
    if device.type != "cuda" or device.index is not None or not place.isdigit():
        return device
    return torch.device("cuda", int(place) % torch.cuda.device_count())


def launch(count: int, arguments: list[str]) -> int:
    """Run `python -m blip3o_core` with `arguments` in `count` processes -> the first status that is not 0.

    When one fails or this one is interrupted, the others are ended: what they have not begun is done by the next run.
    """
    command = [sys.executable, "-m", __package__.rpartition(".")[0], *arguments]
    environment = {**os.environ, "WORLD_SIZE": str(count)}
    running = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    try:
        waiting = list(running)
        while waiting:
            for process in list(waiting):
                try:
                    status = process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
                waiting.remove(process)
                if status:
                    return status
        return 0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
