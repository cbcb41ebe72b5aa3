"""Which samples are dropped, and why: from the features of a piece and the limits, column by column."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..settings import Strict
from .features import TEXT_FEATURES
from .settings import CurationSettings
from .texts import UNKNOWN

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Table

UNREADABLE, WITHOUT_TEXT, DUPLICATE, EVALUATION = "unreadable", "without_text", "duplicate", "evaluation"


@dataclass(frozen=True)
class Drop:
    """One reason against a sample: the feature or rule, what was found, and what is allowed."""

    reason: str
    value: Any
    limit: Any
    of: str | None = None  # the place of the sample that stays instead

    def entry(self) -> dict[str, Any]:
        """As a log has it."""
        content = {"reason": self.reason, "value": self.value, "limit": self.limit}
        return content if self.of is None else {**content, "of": self.of}


@dataclass(frozen=True)
class Bound:
    """One end of what a feature may be."""

    feature: str
    least: bool  # whether values below are dropped, or those above
    value: Any


@dataclass(frozen=True)
class Verdicts:
    """What the limits say about the rows of a piece. `drops`: the rows that do not pass; the first reason counts."""

    drops: dict[int, list[Drop]]
    texts: dict[int, tuple[int, ...]]  # of rows that lose some of their texts: the numbers of those that stay


def bounds_of(limits: Strict) -> Iterator[Bound]:
    """The limits that are on, by the names of their settings."""
    for name in type(limits).model_fields:
        value, feature = getattr(limits, name), name[4:]
        if name[:4] in ("min_", "max_") and value is not None:
            yield Bound(feature, name.startswith("min_"), value)


def decide(table: "Table", settings: CurationSettings) -> Verdicts:
    """What each row of a piece's features breaks, near-duplicates and evaluation data apart."""
    notes = _Notes(table)
    for row, reason in enumerate(table["broken"].to_pylist()):
        if reason is not None:
            notes.add(row, Drop(UNREADABLE, reason, None))
    keep = list(bounds_of(settings.keep))
    for bound in [*keep, *judged(settings)]:
        if bound.feature not in TEXT_FEATURES:
            notes.check(bound)
    for kind, limits in (("edit", settings.edits), ("composition", settings.compositions)):
        for bound in bounds_of(limits):
            notes.check(bound, kind)
    texts = _check_texts(notes, [bound for bound in keep if bound.feature in TEXT_FEATURES], settings)
    return Verdicts(notes.drops, {row: left for row, left in texts.items() if row not in notes.drops})


def judged(settings: CurationSettings) -> Iterator[Bound]:
    for judge in settings.judges:
        for value, least in ((judge.min, True), (judge.max, False)):
            if value is not None:
                yield Bound(judge_column(judge.name), least, value)


class _Notes:
    """The reasons against the rows of a piece, as they are found."""

    def __init__(self, table: "Table"):
        import numpy as np

        self.table, self.drops = table, dict[int, list[Drop]]()
        self._kinds = np.asarray(table["kind"].to_pylist(), dtype=object)

    def add(self, row: int, drop: Drop) -> None:
        self.drops.setdefault(row, []).append(drop)

    def check(self, bound: Bound, kind: str | None = None) -> None:
        """Note the rows, all or those of a kind, that break a bound."""
        import numpy as np

        values = numbers(self.table, bound.feature)
        wrong = _breaks(values, bound) if kind is None else _breaks(values, bound) & (self._kinds == kind)
        for row in np.flatnonzero(wrong).tolist():
            self.add(row, Drop(bound.feature, _short(values[row]), bound.value))


def judge_column(name: str) -> str:
    return f"judge.{name}"


def numbers(table: "Table", name: str) -> "np.ndarray":
    """A column of numbers as float64; what is missing is NaN, which no limit drops."""
    import numpy as np
    import pyarrow as pa

    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _check_texts(notes: _Notes, bounds: list[Bound], settings: CurationSettings) -> dict[int, tuple[int, ...]]:
    """Note the rows that have no text left -> the texts that stay, of rows that lose some."""
    import numpy as np

    table, keep = notes.table, settings.keep
    starts = table["words"].combine_chunks().offsets.to_numpy()
    readable = table["broken"].is_null().to_numpy(zero_copy_only=False)
    may_be_empty = (numbers(table, "references") == 0) & keep.without_text
    for row in np.flatnonzero((np.diff(starts) == 0) & readable & ~may_be_empty).tolist():
        notes.add(row, Drop(WITHOUT_TEXT, 0, 1))
    columns = {name: _flat(table, name).to_numpy(zero_copy_only=False) for name in TEXT_FEATURES}
    broken = [(bound, _breaks(columns[bound.feature], bound)) for bound in bounds]
    if keep.languages:
        known = (*keep.languages, UNKNOWN)
        broken.append((Bound("language", True, ", ".join(keep.languages)), ~np.isin(columns["language"], known)))
    wrong = np.zeros(len(columns["words"]), dtype=bool)
    for _, one in broken:
        wrong |= one
    left: dict[int, tuple[int, ...]] = {}
    for row in np.unique(np.searchsorted(starts, np.flatnonzero(wrong), side="right") - 1).tolist():
        first, last = int(starts[row]), int(starts[row + 1])
        left[row] = tuple(k - first for k in range(first, last) if not wrong[k])
        for bound, one in broken if not left[row] else ():
            if one[first]:
                notes.add(row, Drop(bound.feature, _short(columns[bound.feature][first]), bound.value))
    return left


def _breaks(values: "np.ndarray", bound: Bound) -> "np.ndarray":
    return values < bound.value if bound.least else values > bound.value


def _flat(table: "Table", name: str) -> Any:
    """The values of all texts of a piece, one after the other."""
    return table[name].combine_chunks().flatten()


def _short(value: Any) -> Any:
    """A number as it is recorded: 6 digits, whole ones as such."""
    if isinstance(value, str):
        return value
    return int(value) if float(value).is_integer() else float(f"{float(value):.6g}")
