"""Who follows a run of the trainer or of GRPO."""

from collections.abc import Callable
from dataclasses import dataclass

Report = Callable[[dict], None]


def _nothing(_) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Watch:
    """`report` and `tell` are called on the main process, `stop` on every process."""

    report: Report = _nothing  # gets each logged entry
    tell: Callable[[str], None] = _nothing  # gets lines about the data before the first step
    stop: Callable[[], bool] = _never  # asked at every step: whether to save and end
