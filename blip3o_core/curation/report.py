"""Pages and tables by which a person judges a curation: what was kept and dropped, why, and how it looks."""

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from ..errors import shown
from ..reports.charts import Axis, histogram
from ..reports.page import image_tag, section, write_page
from .decisions import Bound, bounds_of, judge_column, judged
from .faults import UNREAD, Faults
from .features import FEATURES, TEXT_FEATURES, Feature
from .select import KEPT, Decided, Selection
from .settings import CurationSettings
from .work import Work, read_table

if TYPE_CHECKING:
    from pyarrow import Table

_TITLES = {
    "unreadable": "cannot be read", "without_text": "has no text", "duplicate": "near-duplicate",
    "evaluation": "is in the evaluation", "language": "other language",
}  # fmt: skip


def write_report(
    work: Work, settings: CurationSettings, sources: Mapping[str, str], selection: Selection, faults: Faults
) -> None:
    """`report.html` about what is in the folder. `sources`: piece -> the name of its source."""
    totals = sum(selection.reasons.values(), Counter())
    parts = [
        f"<h1>{html.escape(work.out.resolve().name)}</h1>{_overview(totals, selection)}",
        _table(selection, sources, totals),
        _faults(faults),
        section("What was measured", _histograms(work, settings, list(sources))),
        *_tiles(work, selection.shown),
    ]
    write_page(work.report, work.out.resolve().name, parts)


def _overview(totals: Counter, selection: Selection) -> str:
    count, kept = totals.total(), totals[KEPT]
    share = f" ({kept / count:.1%})" if count else ""
    again = f" {selection.unchanged:,} of them are also written as reconstructions." if selection.unchanged else ""
    return (
        f'<p class="soft">{count:,} samples; {kept:,} are kept{share}.{again} A sample counts for its first reason; '
        "<code>dropped.jsonl</code> has every drop with all its reasons, values and limits.</p>"
    )


def _table(selection: Selection, sources: Mapping[str, str], totals: Counter) -> str:
    """Samples by reason and source."""
    names = list(dict.fromkeys(sources.values()))
    by_source = {name: Counter[str]() for name in names}
    for piece, counts in selection.reasons.items():
        by_source[sources[piece]].update(counts)
    reasons = [KEPT, *(reason for reason, _ in totals.most_common() if reason != KEPT)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{html.escape(title_of(reason))}</td><td>{totals[reason]:,}</td>"
        + "".join(f"<td>{by_source[name][reason]:,}</td>" for name in names)
        + "</tr>"
        for reason in reasons
    )
    return f'<div class="scroll"><table><tr><th></th><th>all</th>{head}</tr>{rows}</table></div>'


def _faults(faults: Faults) -> str:
    """What could not be read or judged, some of each with place and reason; nothing where all went well."""
    rows = []
    for what, count in sorted(faults.counts.items(), key=lambda one: (one[0] != UNREAD, one[0])):
        title = _TITLES["unreadable"] if what == UNREAD else what
        listed = "".join(
            f"<li>{html.escape(shown(place, 300))}: {html.escape(shown(reason, 400))}</li>"
            for place, reason in faults.first[what]
        )
        more = f"<li>and {count - len(faults.first[what]):,} more</li>" if count > len(faults.first[what]) else ""
        rows.append(f"<h3>{html.escape(title)}: {count:,}</h3><ul>{listed}{more}</ul>")
    if not rows:
        return ""
    about = (
        "What cannot be read is dropped; <code>dropped.jsonl</code> lists it. A sample that a model said nothing about "
        "is kept or dropped by what else is known of it; <code>faults.jsonl</code> lists these. Where a model gave no "
        "answer, the same command asks again."
    )
    return f'<h2>What could not be read or judged</h2><p class="soft">{about}</p>{"".join(rows)}'


def title_of(reason: str) -> str:
    """A reason in the words of a reader."""
    return _TITLES.get(reason, reason.removeprefix("judge.").replace("_", " "))


def _histograms(work: Work, settings: CurationSettings, pieces: Sequence[str]) -> list[str]:
    """The values of each feature, of what is kept and of what is dropped, with the limits."""
    features = dict(FEATURES)
    features |= {
        judge_column(judge.name): Feature(f"judge {judge.name}", "", *_ends(judge)) for judge in settings.judges
    }
    axes = {name: Axis(one.low, one.high, log=one.log) for name, one in features.items()}
    counts = {name: {True: [0] * axis.bars, False: [0] * axis.bars} for name, axis in axes.items()}
    for piece in pieces:
        table, kept = read_table(work.features(piece)), set(read_table(work.decisions(piece))["key"].to_pylist())
        rows = [key in kept for key in table["key"].to_pylist()]
        for name, axis in axes.items():
            _count(table, name, axis, rows, counts[name])
    limits = _limits(settings)
    return [
        histogram(
            f"{title_of(name)}{f', {one.unit}' if one.unit else ''}",
            axes[name],
            [(KEPT, counts[name][True]), ("dropped", counts[name][False])],
            limits.get(name, ()),
            one.about,
        )
        for name, one in features.items()
    ]


def _ends(judge) -> tuple[float, float]:
    """The ends of a judge's axis: its limits, with room beyond them."""
    low, high = judge.min, judge.max
    low = min(0.0, low) if low is not None else 0.0
    return low, max(1.0, high if high is not None else 1.0, 2 * abs(judge.min or 0))


def _count(table: "Table", name: str, axis: Axis, rows: Sequence[bool], counts: Mapping[bool, list[int]]) -> None:
    import numpy as np

    for kept in (True, False):
        column = table.filter(np.asarray(rows, bool) == kept)[name].combine_chunks()
        values = (column.flatten() if name in TEXT_FEATURES else column).drop_null().to_numpy(zero_copy_only=False)
        found, often = np.unique(values, return_counts=True)
        for value, count in zip(found.tolist(), often.tolist(), strict=True):
            counts[kept][axis.bar_of(value)] += count


def _limits(settings: CurationSettings) -> dict[str, list[float]]:
    """Feature -> its limits, of all kinds of samples."""
    found: dict[str, list[float]] = {}
    groups: Iterable[Iterable[Bound]] = (
        bounds_of(settings.keep), bounds_of(settings.edits), bounds_of(settings.compositions), judged(settings)
    )  # fmt: skip
    for bounds in groups:
        for bound in bounds:
            if bound.value not in found.setdefault(bound.feature, []):
                found[bound.feature].append(bound.value)
    return found


def _tiles(work: Work, rows: Sequence[Decided]) -> Iterator[str]:
    """Images of what was kept and dropped, by reason; those that a person should look at."""
    pieces = dict.fromkeys(row.piece for row in rows)
    images = {piece: dict(_thumbnails(work, piece)) for piece in pieces}
    texts = {piece: dict(_texts(work, piece, {row.key for row in rows if row.piece == piece})) for piece in pieces}
    for reason in [KEPT, *dict.fromkeys(row.reason for row in rows if row.reason != KEPT)]:
        tiles = []
        for row in rows:
            if row.reason == reason:
                data = images[row.piece].get(row.key or "", b"")
                tag = image_tag(data, "jpeg") if data else ""
                text = html.escape(texts[row.piece].get(row.key or "", ""))
                tiles.append(f'<div>{tag}<p class="text">{text}</p><p class="soft">{html.escape(_said(row))}</p></div>')
        if tiles:
            title = "Some that are kept" if reason == KEPT else f"Some that are dropped: {title_of(reason)}"
            yield f'<h2>{html.escape(title)}</h2><div class="tiles">{"".join(tiles)}</div>'


def _thumbnails(work: Work, piece: str) -> Iterator[tuple[str, bytes]]:
    for row in read_table(work.thumbnails(piece)).to_pylist():
        yield row["key"], row["image"]


def _texts(work: Work, piece: str, keys: Set[str | None]) -> Iterator[tuple[str, str]]:
    """(key, the beginning of its first text) of some samples of a piece."""
    for row in read_table(work.features(piece)).select(["key", "texts"]).to_pylist():
        if row["texts"] and row["key"] in keys:
            yield row["key"], shown(row["texts"][0], 160)


def _said(row: Decided) -> str:
    """The place of a sample, and what its drop says."""
    place = row.place.rsplit("/", 1)[-1]
    words = [place]
    for drop in row.drops:
        limit = "" if drop.limit is None else f" (limit {drop.limit})"
        near = "" if drop.of is None else f" of {drop.of.rsplit('/', 1)[-1]}"
        words.append(f"{title_of(drop.reason)}{near}: {shown(drop.value, 120)}{limit}")
    return "; ".join(words)
