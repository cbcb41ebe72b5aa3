"""The one exception for mistakes that a user can make and correct."""

from collections.abc import Sequence


class Blip3oError(ValueError):
    """Bad input: the message names the value, the reason and the next step. Nothing was changed when it is raised."""


def bullet_list(lines: Sequence[str], most: int = 30) -> str:
    """One indented line for each, at most `most`, then how many more there are."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(f"  {line}" for line in [*lines[:most], *more])
