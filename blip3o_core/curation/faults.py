"""What could not be read, and what models could not say about samples: counted, and each with its place in a file."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import shown
from ..files import atomic_write, naming_failures
from .models.stage import FAULTS, uses_models
from .settings import CurationSettings
from .work import Work, read_table

UNREAD = "reading"  # beside the names of models
SHOWN = 8  # faults of a kind that the report shows


@dataclass
class Faults:
    """What failed: reading, or a model."""

    counts: Counter[str] = field(default_factory=Counter)  # what -> samples
    first: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # what -> (place, reason) of some

    def note(self, what: str, place: str, reason: str) -> None:
        self.counts[what] += 1
        some = self.first.setdefault(what, [])
        if len(some) < SHOWN:
            some.append((place, reason))


def write_faults(
    work: Work, settings: CurationSettings, pieces: Iterable[str], tell: Callable[[str], None] = lambda line: None
) -> Faults:
    """Write what models could not say to `faults.jsonl`, or remove that of before -> all faults."""
    faults = Faults()
    if not uses_models(settings):
        for _, what, place, reason in _found(work, pieces, []):
            faults.note(what, place, reason)
        work.faults.unlink(missing_ok=True)
        return faults
    with (
        naming_failures(work.faults),
        atomic_write(work.faults) as scratch,
        open(scratch, "w", encoding="utf-8") as log,
    ):
        for is_model, what, place, reason in _found(work, pieces, [FAULTS]):
            faults.note(what, place, reason)
            if is_model:
                log.write(json.dumps({"place": place, "model": what, "reason": reason}) + "\n")
    for what, count in sorted(faults.counts.items()):
        if what != UNREAD:
            place, reason = faults.first[what][0]
            tell(f"warning: {what} failed for {count:,} samples; the first is {shown(f'{place}: {reason}', 400)}")
    if set(faults.counts) - {UNREAD}:
        tell(
            f"{shown(work.faults)} lists them all. They are kept or dropped by what else is known of them. Run the "
            "same command again to ask about those without an answer."
        )
    return faults


def _found(work: Work, pieces: Iterable[str], more: Sequence[str]) -> Iterator[tuple[bool, str, str, str]]:
    """(whether it is of a model, what failed, place, reason) of each fault."""
    for piece in pieces:
        for row in read_table(work.features(piece), ["place", "broken", *more]).to_pylist():
            if row["broken"] is not None:
                yield False, UNREAD, row["place"], row["broken"]
            for fault in row.get(FAULTS) or ():
                model, _, reason = fault.partition(": ")
                yield True, model, row["place"], reason
