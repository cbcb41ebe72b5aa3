"""A comparison of runs for people: as Markdown, and as one HTML file with plots and the same items side by side."""

import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, shown
from ..files import read_bytes
from ..images.png import KEY
from ..images.reader import MAX_BYTES, open_image
from ..reports.charts import Interval, intervals
from ..reports.page import section, thumbnail_tag, write_page
from .compare import Compared, Comparison, Run, shared_items
from .results import with_interval

Cell = tuple[str, bool]  # text, and whether it stands out
_ENOUGH = 6  # of five items all differ to one side in one case of 16, where nothing differs
_NOTE = "Dots are means, bars their 95 % intervals."
_PAIRED = (
    "Each item and sample has the same seed in all runs. Differences are means over these pairs, run minus first run, "
    f"with 95 % bootstrap intervals over items. Bold: the interval of {_ENOUGH} items or more is on one side of 0. "
    "One in twenty is so by chance where nothing differs."
)


def markdown(comparison: Comparison) -> str:
    """Tables for a terminal or a page."""
    lines = [f"# {comparison.task}: {' and '.join(run.name for run in comparison.runs)}", ""]
    lines += [f"- {_about(run)}" for run in comparison.runs]
    for words in comparison.warnings:
        lines += ["", f"**Note:** {words}"]
    for title, rows in _tables(comparison):
        lines += ["", f"## {title}", "", *markdown_table(rows)]
    if any(any(one.differences) for one in comparison.measures):
        lines += ["", _PAIRED]
    return "\n".join(lines) + "\n"


def write_report(comparison: Comparison, path: Path, images: int) -> None:
    """The page. `images`: of how many items the images are shown side by side."""
    title = f"{comparison.task}: {' and '.join(run.name for run in comparison.runs)}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        "".join(f'<p class="soft">{html.escape(_about(run))}</p>' for run in comparison.runs),
        "".join(f'<p class="alarm">{html.escape(words)}</p>' for words in comparison.warnings),
        *(f"<h2>{html.escape(title)}</h2>{_html_table(rows)}" for title, rows in _tables(comparison)),
        f'<p class="soft">{_PAIRED}</p>' if any(any(one.differences) for one in comparison.measures) else "",
        section("Means", [_means(comparison, one) for one in comparison.measures]),
        section("Differences", [_differences(comparison, one) for one in comparison.measures]),
        _side_by_side(comparison, images),
    ]
    write_page(path, title, parts)


def _about(run: Run) -> str:
    images, checkpoint = run.results["images"], run.facts["checkpoint"]
    loras = f" with {len(checkpoint['loras'])} LoRAs" if checkpoint.get("loras") else ""
    return f"{run.name}: {checkpoint['name']}{loras}, {images['made']:,} images of {len(run.items):,} items"


def _tables(comparison: Comparison) -> Iterator[tuple[str, list[list[Cell]]]]:
    """(title, rows); the first row has the names of the columns."""
    if comparison.differing:
        head = [("", False), *((run.name, False) for run in comparison.runs)]
        yield "What differs", [
            head, *([(name, False), *((_value(one), False) for one in values)] for name, values in comparison.differing)
        ]  # fmt: skip
    for one in comparison.measures:
        yield one.title, [_head(comparison, one), *(_row(one, name) for name in [*one.categories, None])]


def _value(value: Any) -> str:
    return "-" if value is None else shown(value, 80)


def _head(comparison: Comparison, measure: Compared) -> list[Cell]:
    names, first = [run.name for run in comparison.runs], comparison.runs[0].name
    against = [f"{name} - {first}" for name, found in zip(names, measure.differences, strict=True) if found]
    return [(word, False) for word in ["category", *names, *against, "items"]]


def _row(measure: Compared, category: str | None) -> list[Cell]:
    """A category, or None for the overall number."""
    numbers = [_of(one, category) for one in measure.numbers]
    paired = [_of(one, category) for one in measure.differences if one]
    cells: list[Cell] = [("overall", True) if category is None else (category or "-", False)]
    cells += [(with_interval(one), False) for one in numbers]
    cells += [(_signed(one), is_clear(one)) for one in paired]
    counts = dict.fromkeys(f"{one['n']:,}" for one in numbers if one)
    return [*cells, (" / ".join(counts) or "0", False)]


def _of(found: Mapping[str, Any] | None, category: str | None) -> Mapping[str, Any] | None:
    if not found:
        return None
    return found["overall"] if category is None else found["categories"].get(category)


def is_clear(one: Mapping[str, Any] | None) -> bool:
    return one is not None and one["n"] >= _ENOUGH and not one["low"] <= 0 <= one["high"]


def _signed(one: Mapping[str, Any] | None) -> str:
    return "-" if one is None else f"{one['mean']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"


def markdown_table(rows: Sequence[Sequence[Cell]]) -> list[str]:
    lines = []
    for row in rows:
        plain = [(text.replace("|", "\\|"), strong) for text, strong in row]
        lines.append("| " + " | ".join(f"**{text}**" if strong else text for text, strong in plain) + " |")
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _html_table(rows: Sequence[Sequence[Cell]]) -> str:
    written = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = (f"<b>{html.escape(text)}</b>" if strong else html.escape(text) for text, strong in row)
        written.append("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>")
    return f'<div class="scroll"><table class="numbers">{"".join(written)}</table></div>'


def _means(comparison: Comparison, measure: Compared) -> str:
    named = [(run.name if one else "", one) for run, one in zip(comparison.runs, measure.numbers, strict=True)]
    return _chart(measure.title, measure, named, None)


def _differences(comparison: Comparison, measure: Compared) -> str:
    first = comparison.runs[0].name
    pairs = zip(comparison.runs, measure.differences, strict=True)
    named = [(f"{run.name} - {first}" if one else "", one) for run, one in pairs]
    return _chart(measure.title, measure, named, 0.0)


def _chart(
    title: str, measure: Compared, groups: Sequence[tuple[str, Mapping[str, Any] | None]], limit: float | None
) -> str:
    names = [*measure.categories, None]
    drawn = [(name, [_interval(_of(found, row)) for row in names]) for name, found in groups]
    return intervals(title, [row or "overall" for row in names], drawn, limit, _NOTE)


def _interval(one: Mapping[str, Any] | None) -> Interval | None:
    return None if one is None else Interval(one["mean"], one["low"], one["high"])


def _side_by_side(comparison: Comparison, count: int) -> str:
    """A row for each item that is shown, a column for each run: the first sample, with its measures."""
    runs = comparison.runs
    values = {
        (one.title, k): run.values(one.scorer, one.measure)
        for one in comparison.measures
        for k, run in enumerate(runs)
        if one.numbers[k]
    }
    items = _chosen(comparison, values, count)
    files = [_files(run, {(item, 0) for item in items}) for run in runs]
    rows = []
    for item in items:
        about = runs[0].items[item]
        cells = []
        for k in range(len(runs)):
            said = [
                f"{one.title} {values[one.title, k][item, 0]:.3g}"
                for one in comparison.measures
                if (item, 0) in values.get((one.title, k), {})
            ]
            path = files[k].get((item, 0))
            tag = "no image" if path is None else thumbnail_tag(open_image(path).convert("RGB"))
            cells.append(f'<td>{tag}<span class="soft">{"<br>".join(map(html.escape, said))}</span></td>')
        words = f'{html.escape(about["prompt"])}<br><span class="soft">{html.escape(about["category"])} {item}</span>'
        rows.append(f"<tr><td>{words}</td>{''.join(cells)}</tr>")
    if not rows:
        return ""
    head = "".join(f"<td><b>{html.escape(run.name)}</b></td>" for run in runs)
    return (
        '<h2>The same items and seeds</h2><p class="soft">The items whose numbers differ most come first: they are not '
        "typical. The others are spread evenly over all items.</p>"
        f'<div class="scroll"><table class="seeds"><tr><td></td>{head}</tr>{"".join(rows)}</table></div>'
    )


def _chosen(comparison: Comparison, values: Mapping[tuple[str, int], Mapping[Any, float]], count: int) -> list[str]:
    """Ids of items that all runs have: half those whose first measure differs most, then some spread evenly."""
    runs = comparison.runs
    shared = [one for one in runs[0].items if all(one in shared_items(runs[0], run) for run in runs[1:])]
    spread = {}
    for item in shared:
        found = [
            values[one.title, k][item, 0]
            for one in comparison.measures[:1]
            for k in range(len(runs))
            if (item, 0) in values.get((one.title, k), {})
        ]
        spread[item] = max(found) - min(found) if found else 0.0
    most = [one for one in sorted(shared, key=lambda one: -spread[one]) if spread[one] > 0][: count // 2]
    rest = [one for one in shared if one not in most]
    wanted = min(count - len(most), len(rest))
    return most + [rest[k * len(rest) // wanted] for k in range(wanted)]


def _files(run: Run, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], Path]:
    """(item, sample) -> the file of its image. Each image says itself what it is: layouts differ by benchmark."""
    found: dict[tuple[str, int], Path] = {}
    for folder in ("images", "samples"):
        for path in sorted((run.folder.path / folder).rglob("*.png")):
            key = _key(path)
            if key in wanted:
                found[key] = path
            if len(found) == len(wanted):
                return found
    return found


def _key(path: Path) -> tuple[str, int] | None:
    """What the settings inside an image say, without reading its pixels; None for an image of anything else."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_bytes(path, "", MAX_BYTES)), formats=("PNG",)) as image:
            about = json.loads(image.info[KEY])["evaluation"]
            return about["item"], about["sample"]
    except (Blip3oError, OSError, ValueError, SyntaxError, KeyError, TypeError):
        return None
