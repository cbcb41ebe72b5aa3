"""How many threads torch computes with on the CPU. These settings are the process's own, and here the process is ours.

Measured with the bundled model on 2 cores: 32 images made one at a time take 24 to 28 s with one thread, 24 s with two.
With two other busy processes on the machine, two threads wait for each other: 154 s, one thread 38 s. Batches gain from
two threads on an idle machine (evaluate: 19 to 23 s in place of 30), so they keep torch's choice.
"""

import math
import os

import torch

SMALL = 50_000_000  # parameters


def set_threads(asked: int | None, checkpoint, device: torch.device, rows: int) -> None:
    """Use `asked` threads. Without it: one where a small model makes one image at a time, else torch's choice.

    A number in OMP_NUM_THREADS counts as torch's choice.
    """
    if asked is None and "OMP_NUM_THREADS" not in os.environ and device.type == "cpu" and rows == 1:
        asked = 1 if parameters(checkpoint) <= SMALL else None
    if asked is not None:
        torch.set_num_threads(asked)


def parameters(checkpoint) -> int:
    return sum(math.prod(entry.shape) for entry in checkpoint.tensors.values())
