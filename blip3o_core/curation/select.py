"""Pass 2, once for all pieces: limits, evaluation data and near-duplicates -> what is kept of each piece.

The features of one piece at a time are in memory, and of each sample that passes the limits a few numbers.
"""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..files import atomic_write, naming_failures
from .decisions import Drop, decide
from .doubles import Candidates, Doubles
from .evaluation import Evaluation
from .settings import CurationSettings
from .work import Work, digest, read_column, read_table, write_table

if TYPE_CHECKING:
    from pyarrow import Schema, Table

SHOWN_KEPT, SHOWN_DROPPED = 24, 12  # samples that the report shows: of what is kept, and of each reason
KEPT = "kept"


@dataclass(frozen=True)
class Decided:
    """What becomes of a row of features."""

    piece: str
    key: str | None
    place: str
    kind: str | None
    drops: tuple[Drop, ...]  # none: it is kept; the first is its reason
    stay: tuple[int, ...] | None  # the numbers of the texts that stay; None: all
    unchanged: bool  # it is also written as a reconstruction

    @property
    def reason(self) -> str:
        return self.drops[0].reason if self.drops else KEPT


@dataclass
class Selection:
    """What is kept of each piece."""

    wanted: dict[str, str] = field(default_factory=dict)  # piece -> what its shard depends on
    reasons: dict[str, Counter] = field(default_factory=dict)  # piece -> reason, or kept -> samples
    unchanged: int = 0
    shown: list[Decided] = field(default_factory=list)  # some for the report


def select(pieces: Mapping[str, str], settings: CurationSettings, told: Callable[[], None] = lambda: None) -> Selection:
    """Decide about all rows of the pieces, in their order, and write what is kept of each and what is dropped.

    `pieces`: piece -> the name of its source. `told` is called for each piece, twice.
    """
    work, names = Work(Path(settings.out)), list(pieces)
    passing = _Passing(settings)
    for number, name in enumerate(names):
        passing.add(number, read_table(work.features(name)))
        told()
    doubles = passing.doubles(lambda number: read_column(work.features(names[number]), "place"))
    selection, shown = Selection(), _Shown()
    with (
        naming_failures(work.dropped),
        atomic_write(work.dropped) as scratch,
        open(scratch, "w", encoding="utf-8") as log,
    ):
        for number, name in enumerate(names):
            table = read_table(work.features(name))
            evaluated = passing.evaluated.get(number, {})
            rows = list(_decided(name, table, settings, [evaluated, *(one.of(number) for one in doubles)]))
            for row in rows:
                shown.offer(row)
                _log(log, pieces[name], row)
            selection.reasons[name] = Counter(row.reason for row in rows)
            selection.unchanged += sum(row.unchanged for row in rows)
            selection.wanted[name] = _write(work, name, [row for row in rows if not row.drops], table)
            told()
    selection.shown = shown.chosen()
    return selection


def _decided(
    piece: str, table: "Table", settings: CurationSettings, later: Sequence[Mapping[int, Drop]]
) -> Iterator[Decided]:
    """`later`: what is found beyond the limits, by row."""
    verdicts = decide(table, settings)
    names = (table[name].to_pylist() for name in ("key", "place", "kind"))
    for row, (key, place, kind) in enumerate(zip(*names, strict=True)):
        drops = (*verdicts.drops.get(row, ()), *(one[row] for one in later if row in one))
        again = not drops and kind == "image" and _share(f"{settings.seed}\0{piece}\0{key}") < settings.reconstructions
        yield Decided(piece, key, place, kind, drops, verdicts.texts.get(row), again)


def _share(text: str) -> float:
    """A number in [0, 1) for each text, the same in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()) / 2**64


class _Passing:
    """What is remembered of the samples that pass the limits; images apart from edits."""

    def __init__(self, settings: CurationSettings):
        self._settings, self._evaluation = settings, Evaluation(settings.decontaminate)
        self.evaluated: dict[int, dict[int, Drop]] = {}  # piece -> row -> why
        self._images, self._edits = Candidates(False), Candidates(True)

    def add(self, piece: int, table: "Table") -> None:
        verdicts = decide(table, self._settings)
        rows = [row for row in range(table.num_rows) if row not in verdicts.drops]
        if self._evaluation and (found := self._evaluation.drops(table, rows)):
            self.evaluated[piece] = found
            rows = [row for row in rows if row not in found]
        if self._settings.duplicates is not None:
            references = table["references"].to_pylist()
            self._images.add(piece, table, [row for row in rows if not references[row]], verdicts.texts)
            self._edits.add(piece, table, [row for row in rows if references[row]], verdicts.texts)

    def doubles(self, places_of: Callable) -> list[Doubles]:
        if self._settings.duplicates is None:
            return []
        distance = self._settings.duplicates.distance
        return [some.doubles(distance, places_of) for some in (self._images, self._edits)]


class _Shown:
    """A few samples of each reason and of what is kept, whichever have the smallest digests."""

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[float, int, Decided]]] = {}
        self._count = 0

    def offer(self, row: Decided) -> None:
        heap = self._heaps.setdefault(row.reason, [])
        self._count += 1
        one = (-_share(f"{row.piece}\0{row.place}"), -self._count, row)
        if len(heap) < (SHOWN_DROPPED if row.drops else SHOWN_KEPT):
            heapq.heappush(heap, one)
        elif one > heap[0]:
            heapq.heapreplace(heap, one)

    def chosen(self) -> list[Decided]:
        return [row for _, heap in sorted(self._heaps.items()) for _, _, row in sorted(heap, key=lambda one: -one[1])]


def _log(log: IO[str], source: str, row: Decided) -> None:
    """A line for a drop: its place, its reason with the value and the limit, and the other reasons against it."""
    if not row.drops:
        return
    first, *others = (drop.entry() for drop in row.drops)
    entry = {"source": source, "place": row.place, "key": row.key, "kind": row.kind, **first}
    log.write(json.dumps(entry | ({"also": others} if others else {}), ensure_ascii=True) + "\n")


def kept_schema() -> "Schema":
    import pyarrow as pa

    return pa.schema(
        [pa.field("key", pa.string()), pa.field("stay", pa.list_(pa.int32())), pa.field("unchanged", pa.bool_())]
    )


def _write(work: Work, piece: str, kept: Sequence[Decided], table: "Table") -> str:
    """Write what is kept of a piece -> what its shard depends on: its samples, and no other one of the piece."""
    import pyarrow as pa

    rows = [{"key": row.key, "stay": row.stay, "unchanged": row.unchanged} for row in kept]
    content = {
        row["key"]: [row["stamp"].hex(), row["texts"]]
        for row in table.select(["key", "stamp", "texts"]).to_pylist()
        if row["stamp"]
    }
    wanted = digest([[*row.values(), *content[row["key"]]] for row in rows])
    write_table(work.decisions(piece), [pa.Table.from_pylist(rows, kept_schema())], kept_schema(), wanted)
    return wanted
