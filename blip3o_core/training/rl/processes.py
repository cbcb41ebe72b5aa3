"""What the processes of one run tell each other."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from ...errors import Blip3oError, first_line

T = TypeVar("T")


def rank_and_count() -> tuple[int, int]:
    """(number of this process, how many there are)."""
    return (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)


def refuse_sharding(what: str, advice: str = "") -> None:
    """Raise Blip3oError where a launcher divides the weights between processes: to make images, each needs all."""
    for name, variable in (("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED")):
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise Blip3oError(
                f"{what} cannot run with {name}: every process makes images, for which it needs whole weights. Start "
                f"it with torchrun, or configure accelerate for several processes without it.{advice}"
            )


def share(value: T) -> list[T]:
    """What every process has, in the order of the processes. All must call it."""
    if not _several():
        return [value]
    found: list = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def together(work: Callable[[], T]) -> T:
    """`work()` of this process. When it fails in one process all of them raise: none waits for the others forever."""
    if not _several():
        return work()
    result, error = None, None
    try:
        result = work()
    except Exception as failed:  # raised again below
        error = failed
    words = share(None if error is None else first_line(error))
    if error is not None:
        raise error
    for rank, said in enumerate(words):
        if said is not None:
            raise Blip3oError(f"Process {rank} stopped: {said}")
    return result  # type: ignore[return-value]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
