"""The machine that numbers are measured on, and how they are measured."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def device_of(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def describe(device: torch.device) -> dict:
    import diffusers
    import transformers

    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version(),
        "torch": torch.__version__, "transformers": transformers.__version__, "diffusers": diffusers.__version__,
        "copy_gb_per_s": round(copy_bandwidth(device) / 1e9, 1),
    }  # fmt: skip
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def copy_bandwidth(device: torch.device, size: int | None = None) -> float:
    """Bytes per second read and written by copying a large tensor.

    On a GPU the copy is timed by the GPU's own clock and large enough for its start not to matter.
    """
    size = size or (2**31 if device.type == "cuda" else 2**28)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        return 2 * size / min(_by_events(lambda: target.copy_(source), 6)[1:])
    return 2 * size / min(measure(lambda: target.copy_(source), device, 5))


def _by_events(work: Callable[[], object], runs: int) -> list[float]:
    """Seconds of each run by the GPU's clock."""
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for begin, end in pairs:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in pairs]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def measure(work: Callable[[], object], device: torch.device, runs: int) -> list[float]:
    """Seconds of each of `runs` runs, after one that does not count."""
    work()
    return [timed(work, device) for _ in range(runs)]


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], device: torch.device, runs: int) -> dict:
    """Run both sides in turn, so that a machine that slows down slows both. The first run of each is reported apart.

    Seconds are medians; `ratio` is the median of the pairs' ratios, above 1 where ours is faster.
    """
    first = {"ours_first_s": timed(ours, device), "theirs_first_s": timed(theirs, device)}
    pairs = [(timed(ours, device), timed(theirs, device)) for _ in range(runs)]
    return {
        **first,
        "ours_s": statistics.median(pair[0] for pair in pairs),
        "theirs_s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
        "runs": runs,
    }
