"""What the folder of a finished curation says: counts by reason, and small images of what was kept and dropped."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .select import KEPT
from .work import Work, read_column, read_table


@dataclass(frozen=True)
class Example:
    """A sample that was kept, or dropped for a reason."""

    reason: str
    value: Any  # None, also for what is kept
    limit: Any
    image: bytes  # a small JPEG; nothing where it cannot be read


@dataclass(frozen=True)
class Results:
    reasons: Counter  # reason, or kept -> samples
    examples: tuple[Example, ...]  # some of each reason, those that the report shows

    @property
    def kept(self) -> int:
        return self.reasons[KEPT]

    @property
    def dropped(self) -> int:
        return self.reasons.total() - self.kept


def read_results(work: Work) -> Results:
    kept: set[str] = set()
    images: dict[str, bytes] = {}
    for path in sorted(work.decisions("x").parent.glob("*.parquet")):
        kept.update(read_column(path, "key").to_pylist())
        images |= {row["key"]: row["image"] for row in read_table(work.thumbnails(path.stem)).to_pylist()}
    reasons, examples = (
        Counter({KEPT: len(kept)}),
        [Example(KEPT, None, None, images[key]) for key in images if key in kept],
    )
    for drop in _drops(work):
        reasons[drop["reason"]] += 1
        if drop["key"] in images or drop["key"] is None:
            image = images.get(drop["key"], b"")
            examples.append(Example(drop["reason"], drop["value"], drop["limit"], image))
    return Results(reasons, tuple(examples))


def _drops(work: Work) -> Iterator[Mapping[str, Any]]:
    with open(work.dropped, encoding="utf-8") as log:
        for line in log:
            yield json.loads(line)
