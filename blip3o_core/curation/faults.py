"""What models could not say about samples: counted, and each with its place in a file."""

import json
from collections import Counter
from collections.abc import Callable, Iterable

from ..errors import shown
from ..files import atomic_write, naming_failures
from .models.stage import FAULTS, uses_models
from .settings import CurationSettings
from .work import Work, read_table


def write_faults(
    work: Work, settings: CurationSettings, pieces: Iterable[str], tell: Callable[[str], None] = lambda line: None
) -> Counter:
    """Write `faults.jsonl`, or remove that of before -> model -> samples that it said nothing about."""
    counts: Counter = Counter()
    if not uses_models(settings):
        work.faults.unlink(missing_ok=True)
        return counts
    first: dict[str, str] = {}
    with (
        naming_failures(work.faults),
        atomic_write(work.faults) as scratch,
        open(scratch, "w", encoding="utf-8") as log,
    ):
        for piece in pieces:
            table = read_table(work.features(piece)).select(["place", FAULTS])
            for row in table.to_pylist():
                for fault in row[FAULTS] or ():
                    model, _, reason = fault.partition(": ")
                    counts[model] += 1
                    first.setdefault(model, f"{row['place']}: {reason}")
                    log.write(json.dumps({"place": row["place"], "model": model, "reason": reason}) + "\n")
    for model, count in sorted(counts.items()):
        tell(f"warning: {model} failed for {count:,} samples; the first is {shown(first[model], 400)}")
    if counts:
        tell(f"{shown(work.faults)} lists them all. They are kept or dropped by what else is known of them.")
    return counts
