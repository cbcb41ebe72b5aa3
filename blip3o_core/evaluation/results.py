"""What a run found: means of each measure by category with their intervals, and what failed, as JSON and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import Blip3oError
from ..files import atomic_write, naming_failures, read_optional_json, write_json
from .interface import Scorer, Task
from .intervals import mean_of
from .plan import Row
from .run_folder import RunFolder
from .scoring import Judged

_MOST = 100  # images that could not be made, in the table for a person


@dataclass(frozen=True)
class Scored:
    """A scorer and what it said of the images of a run."""

    scorer: Scorer
    judged: Sequence[Judged]


def summarise(task: Task, folder: RunFolder, rows: Sequence[Row], scored: Sequence[Scored]) -> dict[str, Any]:
    """The content of results.json. Nothing in it depends on when, where or in how many pieces it was made."""
    missing = [row for row in rows if not folder.image(row).is_file()]
    return {
        "task": task.name,
        "task_version": task.version,
        "weights": None if task.weights is None else dict(task.weights),
        "run": folder.run,
        "images": {
            "wanted": len(rows),
            "made": len(rows) - len(missing),
            "failed": [{"item": row.item.id, "sample": row.sample, "reason": _reason(folder, row)} for row in missing],
        },
        "scorers": [_scorer(task, rows, one) for one in scored],
        "official": task.official(Path("images")),  # seen from the run's folder, which may be moved
    }


def write(folder: RunFolder, results: Mapping[str, Any]) -> None:
    """results.md, then results.json: where that is, the run came to its end."""
    write_text(folder.report, markdown(results))
    write_json(folder.results, dict(results))


def write_text(path: Path, text: str) -> None:
    with naming_failures(path), atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def markdown(results: Mapping[str, Any]) -> str:
    """The results for a person."""
    run, images = results["run"], results["images"]
    checkpoint = run["checkpoint"]
    lines = [
        f"# {results['task']}",
        "",
        f"Checkpoint {checkpoint['name']} (`{checkpoint['identity']}`), {images['made']:,} of {images['wanted']:,} "
        f"images of {run['task']['items']:,} items.",
        "",
        "Settings: " + ", ".join(f"{name} {value}" for name, value in run["settings"].items()) + ".",
    ]
    for scorer in results["scorers"]:
        lines += ["", f"## {scorer['name']}", "", *table(scorer["measures"]), "", _counts(scorer)]
        lines += [f"Note: {note}." for note in scorer["decisive"].get("notes", [])]
    if not results["scorers"]:
        lines += ["", "No scorer ran here."]
    if images["failed"]:
        lines += ["", "## Images that could not be made", ""]
        lines += [f"- {one['item']}, sample {one['sample']}: {one['reason']}" for one in images["failed"][:_MOST]]
        lines += [f"- and {len(images['failed']) - _MOST:,} more, see results.json"] * (len(images["failed"]) > _MOST)
    if results["official"]:
        lines += ["", "## The benchmark's own scorer", "", "```", results["official"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def table(measures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row for each category, and columns for the measures: the mean, its 95 % interval, and the number of items."""
    rows = [f"| category | {' | '.join(measures)} | items |", "|---|" + "---|" * (len(measures) + 1)]
    names = list(dict.fromkeys(name for one in measures.values() for name in one["categories"]))
    for name in names if len(names) > 1 or names[:1] != [""] else []:
        cells = [one["categories"].get(name) for one in measures.values()]
        rows.append(_row(name or "-", cells))
    rows.append(_row("**overall**", [one["overall"] for one in measures.values()]))
    return rows


def _row(title: str, cells: Sequence[Mapping[str, Any] | None]) -> str:
    shown = [with_interval(one) for one in cells]
    items = max((one["n"] for one in cells if one is not None), default=0)
    title = title.replace("|", "\\|")
    return f"| {title} | {' | '.join(shown)} | {items:,} |"


def with_interval(one: Mapping[str, Any] | None) -> str:
    return "-" if one is None else f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _counts(scorer: Mapping[str, Any]) -> str:
    words = [f"{scorer['n']:,} images judged"]
    words += [f"{scorer['unjudged']:,} with nothing to judge"] * bool(scorer["unjudged"])
    words += [f"{scorer['failures']:,} could not be judged"] * bool(scorer["failures"])
    return f"{', '.join(words)}. Version {scorer['version']}."


def _scorer(task: Task, rows: Sequence[Row], scored: Scored) -> dict[str, Any]:
    scorer, judged = scored.scorer, scored.judged
    return {
        "name": scorer.name,
        "version": str(scorer.version),
        "decisive": dict(scorer.decisive),
        "measures": {name: _measure(task, rows, judged, name) for name in scorer.measures},
        "n": sum(one.measures is not None for one in judged),
        "failures": sum(one.failure is not None for one in judged),
        "unjudged": sum(one.measures is None and one.failure is None for one in judged),
    }


def _measure(task: Task, rows: Sequence[Row], judged: Sequence[Judged], name: str) -> dict[str, Any]:
    """An item's number is the mean of its samples; items without one are left out."""
    values = item_means({one.key: (one.measures or {}).get(name) for one in judged})
    return over_items(values, {row.item.id: row.item.category for row in rows}, task.weights)


def item_means(values: Mapping[tuple[str, int], float | None]) -> dict[str, float]:
    """(item, sample) -> number becomes item -> mean of its numbers, of items that have one."""
    samples: dict[str, list[float]] = {}
    for (item, _), value in values.items():
        if value is not None:
            samples.setdefault(item, []).append(value)
    return {item: sum(found) / len(found) for item, found in samples.items()}


def over_items(
    values: Mapping[str, float], categories: Mapping[str, str], weights: Mapping[str, float] | None
) -> dict[str, Any]:
    """Means of items' numbers, overall and by category. `categories`: of every item, in order.

    Where categories have weights, the items of one share its weight: the mean is that of the categories' means.
    """
    groups: dict[str, list[float]] = {category: [] for category in categories.values()}
    for item, category in categories.items():
        if item in values:
            groups[category].append(values[item])
    names = [category for category, found in groups.items() for _ in found]
    numbers = [value for found in groups.values() for value in found]
    if weights is None:
        overall = mean_of(numbers) if numbers else None
    else:
        shares = [weights.get(name, 0) / len(groups[name]) for name in names]
        overall = mean_of(numbers, shares, names) if any(shares) else None
    return {
        "overall": None if overall is None else asdict(overall),
        "categories": {category: asdict(mean_of(found)) for category, found in groups.items() if found},
    }


def _reason(folder: RunFolder, row: Row) -> str:
    try:
        return str(read_optional_json(folder.failure(row)).get("reason", "it was not made yet"))
    except Blip3oError:
        return "it was not made yet"
