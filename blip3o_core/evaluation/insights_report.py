"""A comparison of checkpoints of the tiny world as Markdown tables."""

from collections.abc import Mapping
from typing import Any

from .compare_report import Cell, is_clear, markdown_table

_NOTE = (
    "Differences are of the same items and seeds, ± one standard error, with 95 % bootstrap intervals over items in "
    "brackets. Bold: the interval is on one side of 0, which happens by chance once in twenty."
)


def markdown(results: Mapping[str, Any], title: str) -> str:
    """All of results.json for a person."""
    settings, machine = results["settings"], results["machine"]
    lines = [f"# {title}", ""]
    for name, one in results["columns"].items():
        mode = f", reference mode {one['reference_mode']}" if one["reference_mode"] else ""
        lines.append(f"- {name}: {one['name']} (`{one['identity']}`){mode}")
    about = [f"{name} {value}" for name, value in settings.items() if not isinstance(value, dict)]
    lines += [
        "",
        f"Settings: {', '.join([*about, *(f'{name} {value}' for name, value in results['numbers'].items())])}.",
    ]
    lines += [f"Machine: {', '.join(f'{name} {value}' for name, value in machine.items())}."]
    for measure in results["measures"]:
        lines += [
            "",
            f"## {measure['title']}",
            "",
            *markdown_table(_rows(measure, results["columns"])),
            *_shares(measure, results["columns"]),
        ]
    return "\n".join([*lines, "", _NOTE]) + "\n"


def _rows(measure: Mapping[str, Any], about: Mapping[str, Any]) -> list[list[Cell]]:
    columns, differences = measure["columns"], measure["differences"]
    first = next(iter(columns.values()))
    head = ["", *columns, *(f"{name} - {about[name]['against']}" for name in differences), "items"]
    rows = [[(word, False) for word in head]]
    places = [("categories", name) for name in first["categories"]] + [("overall", "")]
    places += [("shapes", name) for name in first["shapes"]]
    for kind, name in places:
        means = [_at(one, kind, name) for one in columns.values()]
        changes = [_at(one, kind, name) for one in differences.values()]
        cells: list[Cell] = [(name or "mean", kind == "overall")]
        cells += [("-" if one is None else _number(one["mean"], measure), False) for one in means]
        cells += [(_change(one, measure), is_clear(one)) for one in changes]
        rows.append([*cells, (f"{max((one['n'] for one in means if one), default=0):,}", False)])
    return rows


def _at(found: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any] | None:
    return found[kind].get(name) if name else found[kind]


def _change(one: Mapping[str, Any] | None, measure: Mapping[str, Any]) -> str:
    if one is None:
        return "-"
    mean, low, high = (_number(one[name], measure, "+") for name in ("mean", "low", "high"))
    error = "" if one["error"] is None else f" ± {_number(one['error'], measure)}"
    return f"{mean}{error} ({low} to {high})"


def _number(value: float, measure: Mapping[str, Any], sign: str = "") -> str:
    return format(value * measure["scale"], f"{sign}.{measure['digits']}f")


def _shares(measure: Mapping[str, Any], columns: Mapping[str, Any]) -> list[str]:
    """By what share an error differs, and by how many standard errors. Shares of right answers need no such words."""
    if measure["attribute"] == "strict":
        return []
    lines = []
    for name, found in measure["differences"].items():
        change, base = found["overall"], measure["columns"][columns[name]["against"]]["overall"]
        if change and base and base["mean"] and change["error"]:
            share, sure = change["mean"] / base["mean"], abs(change["mean"]) / change["error"]
            lines.append(
                f"- {name}: the mean error is {abs(100 * share):.1f} % {'lower' if share < 0 else 'higher'} than with "
                f"{columns[name]['against']}, {sure:.1f} standard errors."
            )
    return ["", *lines] if lines else []
