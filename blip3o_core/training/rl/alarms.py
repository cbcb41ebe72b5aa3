"""Plain warnings while a run goes wrong: it left the checkpoint behind, or it stopped exploring."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import parse_json, read_lines


def first_value(log: Path, name: str) -> float | None:
    """The first number that a run's log has under `name`."""
    lines = read_lines(log) if log.is_file() else []
    entries = (parse_json(line, str(log), "Start a new run.") for line in lines if f'"{name}"' in line)
    return next((entry[name] for entry in entries if name in entry), None)


def alarms(
    entry: Mapping[str, Any], kl_limit: float, entropy_share: float = 0, first_entropy: float | None = None
) -> list[str]:
    """What to say about the numbers of one update. A limit of 0 is off."""
    found = []
    kl, entropy = entry.get("kl"), entry.get("entropy")
    if kl_limit and kl is not None and kl > kl_limit:
        found.append(
            f"KL is {kl:.3g} nats per token, above kl_alarm {kl_limit:g}: the model is far from its checkpoint, and "
            "the renderer was not trained for it. Raise kl, or lower lr."
        )
    if entropy_share and entropy is not None and first_entropy and entropy < entropy_share * first_entropy:
        found.append(
            f"Entropy is {entropy:.3g} nats per token, below entropy_alarm {entropy_share:g} of the first "
            f"{first_entropy:.3g}: images of one prompt become alike. Raise entropy_bonus or kl, or lower lr."
        )
    return found
