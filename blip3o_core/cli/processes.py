"""Several processes that share a list of work, told apart by the environment variables of torchrun and accelerate.

A hash of an item decides which process does it, so processes need not talk. What a dead process left undone, the next
run does.
"""

import hashlib
import os
import subprocess
import sys

from ..errors import Blip3oError

MODULE = __package__.partition(".")[0]


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

    When one process fails or this one is interrupted, the others are ended. The next run does what they left.
    """
    command = [sys.executable, "-m", MODULE, *words]
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
