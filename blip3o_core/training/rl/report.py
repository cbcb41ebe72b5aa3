"""One HTML file about a run of reinforcement learning: curves, alarms, and the same seeds before and after.

It holds everything it shows. It is made from the run's log and samples alone, also while the run still works.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import Blip3oError, shown
from ...files import parse_json, read_lines
from ...images.png import read_settings
from ...images.reader import open_image
from ...reports.charts import COLOURS, Line, chart
from ...reports.page import FILE, section, thumbnail_tag, write_page
from ..watch import Watch
from .held_out import GAP


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report on the run in a folder -> its file, `report.html` in that folder unless `out` says otherwise.

    Raises Blip3oError for a folder without a log of reinforcement learning.
    """
    entries, seconds = _read(run / "log.jsonl"), _read(run / "seconds.jsonl")
    if not any("reward" in entry or "held_out_reward" in entry for entry in entries):
        raise Blip3oError(
            f"{shown(run)} is not the folder of a run of reinforcement learning: its log.jsonl is missing or has no "
            "rewards. Give the folder that `out` names in the settings of the run."
        )
    looks = [entry for entry in entries if "held_out_reward" in entry]
    steps = [entry for entry in entries if not any(name.startswith("held_out_") for name in entry)]
    parts = [
        f"<h1>{html.escape(run.resolve().name)}</h1>{_overview(steps, looks)}",
        _warnings(entries),
        section("Rewards while training", _reward_charts(steps)),
        section("Held-out tasks", _held_out_charts(looks)),
        _table(looks),
        section("How the model moves", _movement_charts(steps)),
        section("Time", [_time_chart(seconds)]),
        _seeds(run, looks),
    ]
    path = out or run / FILE
    write_page(path, run.resolve().name, parts)
    return path


def finish(run: Path, watch: Watch) -> None:
    """Write the report when a run ends. What fails is told: the run itself is complete."""
    try:
        write_report(run)
    except Blip3oError as error:
        watch.tell(f"warning: the report was not written: {error}")


def _read(log: Path) -> list[dict]:
    """The entries of a log. A last line that is still being written is left out."""
    lines = read_lines(log) if log.is_file() else []
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line, f"{shown(log)}, line {number},", "Remove that line.")
        except Blip3oError:
            if number < len(lines):
                raise
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries


def _line(entries: Sequence[Mapping], name: str, label: str = "", **how: Any) -> Line:
    points = [(entry["step"], entry[name]) for entry in entries if isinstance(entry.get(name), int | float)]
    return Line(label or name, points, **how)


def _with_spread(entries: Sequence[Mapping], name: str, label: str) -> Line:
    both = [entry for entry in entries if name in entry]
    return Line(label, [(e["step"], e[name]) for e in both], [e.get(f"{name}_spread", 0.0) for e in both])


def _score(look: Mapping) -> float:
    """What checkpoints are compared by."""
    return look.get("held_out_passed", look["held_out_reward"])


def _overview(steps: Sequence[Mapping], looks: Sequence[Mapping]) -> str:
    last = max((entry["step"] for entry in (*steps, *looks)), default=0)
    words = [f"{last} updates."]
    if looks:
        kind = "share of held-out images that pass" if "held_out_passed" in looks[0] else "mean held-out reward"
        best = max(looks, key=_score)
        words.append(
            f"The {kind} was {_score(looks[0]):.3g} at update {looks[0]['step']}, is {_score(looks[-1]):.3g} at update "
            f"{looks[-1]['step']}, and was best at update {best['step']}: {_score(best):.3g}. The best of several "
            "looks is partly luck."
        )
    return f'<p class="soft">{" ".join(words)}</p>'


def _warnings(entries: Sequence[Mapping]) -> str:
    """Alarms and problems, each with the updates that it was seen at; numbers in the words may differ."""
    found = []
    for kind in ("alarms", "problems", "held_out_problems"):
        marked = [entry for entry in entries if entry.get(kind)]
        heads = dict.fromkeys(_head(words) for entry in marked for words in entry[kind])
        for head in heads:
            of_head = [(e["step"], w) for e in marked for w in e[kind] if _head(w) == head]
            (first, words), last = of_head[0], of_head[-1][0]
            when = f"update {first}" if first == last else f"{len(of_head)} times, updates {first} to {last}"
            found.append(f'<p class="alarm"><b>{when}</b>: {html.escape(str(words))}</p>')
    return f"<h2>Alarms and problems</h2>{''.join(found)}" if found else ""


def _head(words: object) -> tuple[str, ...]:
    """What sentences of one kind have in common: "KL is", "Reward 'text'"."""
    return tuple(str(words).split(" ")[:2])


def _reward_charts(steps: Sequence[Mapping]) -> list[str]:
    names = [name for name in _names(steps, "reward/") if not name.endswith("_spread")]
    note = "The band is the spread over the images."
    charts = [chart("All rewards, weighed together", [_with_spread(steps, "reward", "reward")], note=note)]
    if len(names) > 1:
        charts += [chart(name.removeprefix("reward/"), [_with_spread(steps, name, name)]) for name in names]
    charts.append(chart("Share of images that pass", [_line(steps, "passed")]))
    charts.append(
        chart("Groups whose images all have one reward", [_line(steps, "equal_groups")], note="They teach nothing.")
    )
    return charts


def _held_out_charts(looks: Sequence[Mapping]) -> list[str]:
    groups = _names(looks, "held_out_passed/")
    rewards = [name for name in _names(looks, "held_out_reward/") if not name.endswith("_spread")]
    return [
        chart("Share that passes", [_line(looks, "held_out_passed", "all", smooth=False)]),
        *(_group_charts(looks, groups) if len(groups) > 1 else ()),
        chart(
            "Mean reward",
            [_line(looks, n, n.removeprefix("held_out_"), smooth=False) for n in rewards or ["held_out_reward"]],
        ),
    ]


def _group_charts(looks: Sequence[Mapping], groups: Sequence[str]) -> list[str]:
    """As few charts, with about as many lines each, as there are colours for."""
    count, found = -(-len(groups) // len(COLOURS)), []
    for number in range(count):
        own = groups[number * len(groups) // count : (number + 1) * len(groups) // count]
        part = f", {number + 1} of {count}" if count > 1 else ""
        lines = [_line(looks, name, name.split("/", 1)[1], smooth=False) for name in own]
        found.append(chart(f"Share that passes, by group{part}", lines))
    return found


def _movement_charts(steps: Sequence[Mapping]) -> list[str]:
    return [
        chart("KL to the checkpoint", [_line(steps, "kl")]),
        chart("Entropy", [_line(steps, "entropy")], note="Near 0, images of one prompt are alike."),
        chart("Norm of the gradient", [_line(steps, "gradient_norm")]),
        chart("Share of ratios that are clipped", [_line(steps, "clipped")]),
        chart("Learning rate", [_line(steps, "lr", smooth=False)]),
    ]


def _time_chart(seconds: Sequence[Mapping]) -> str:
    names = list(dict.fromkeys(name for entry in seconds for name in entry if name != "step"))
    return chart("Seconds of an update", [_line(seconds, name) for name in names])


def _names(entries: Sequence[Mapping], start: str) -> list[str]:
    return sorted({name for entry in entries for name in entry if name.startswith(start)})


def _table(looks: Sequence[Mapping]) -> str:
    """Held-out numbers by name: at the first look, at the best and at the last."""
    names = [n for n in _names(looks, "held_out_") if isinstance(looks[0].get(n), int | float) and "_spread" not in n]
    if len(looks) < 2:
        return ""
    best = max(looks, key=_score)
    chosen = (looks[0], best, looks[-1])
    head = "".join(
        f"<th>{what}, update {one['step']}</th>" for what, one in zip(("first", "best", "last"), chosen, strict=True)
    )
    rows = "".join(
        f"<tr><td>{html.escape(name.removeprefix('held_out_'))}</td>"
        + "".join(f"<td>{one[name]:.3f}</td>" if name in one else "<td></td>" for one in chosen)
        + "</tr>"
        for name in names
    )
    return f'<div class="scroll"><table><tr><th>held out</th>{head}</tr>{rows}</table></div>'


def _seeds(run: Path, looks: Sequence[Mapping]) -> str:
    """A row of images of the same tasks and seeds at the first look, the best one and the last one."""
    shown_looks = [entry for entry in looks if entry.get("samples") and (run / entry["samples"]).is_file()]
    if not shown_looks:
        return ""
    best = max(shown_looks, key=_score)
    chosen = {entry["step"]: entry for entry in (shown_looks[0], best, shown_looks[-1])}
    columns, prompts = {}, []
    for step, entry in sorted(chosen.items()):
        facts = read_settings(run / entry["samples"])
        columns[step], prompts = _tiles(run / entry["samples"], facts), facts["prompts"]
    head = "".join(f"<td><b>update {step}{' (best)' if step == best['step'] else ''}</b></td>" for step in columns)
    rows = []
    for number, prompt in enumerate(prompts):
        cells = "".join(f"<td>{tiles[number] if number < len(tiles) else ''}</td>" for tiles in columns.values())
        rows.append(f"<tr><td>{html.escape(prompt)}</td>{cells}</tr>")
    table = f'<table class="seeds"><tr><td></td>{head}</tr>{"".join(rows)}</table>'
    return f'<h2>The same tasks and seeds</h2><div class="scroll">{table}</div>'


def _tiles(path: Path, facts: dict) -> list[str]:
    """The images of a row of samples, each as a tag with its pixels inside and its reward below."""
    row, left, tiles = open_image(path), 0, []
    for (width, height), reward in zip(facts["sizes"], facts["rewards"], strict=True):
        image = row.crop((left, 0, left + width, height))
        left += width + GAP
        said = "no reward" if reward is None else f"reward {reward:.3g}"
        tiles.append(f'{thumbnail_tag(image)}<span class="soft">{said}</span>')
    return tiles
