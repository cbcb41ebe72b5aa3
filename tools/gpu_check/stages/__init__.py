"""What is checked, in order of value. A stage is the function `run(bench)` of the module of its name here."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Seconds that a stage may take, and without which it is not begun."""

    most: float
    least: float


STAGES = {
    "machine": Limits(40, 5),
    "parity": Limits(90, 20),
    "gputests": Limits(90, 15),
    "decode": Limits(110, 25),
    "tokens": Limits(60, 15),
    "render": Limits(40, 12),
    "image": Limits(50, 15),
    "host": Limits(220, 50),
    "memory": Limits(40, 12),
    "authors": Limits(50, 15),
}
