"""Checkpoints of the tiny world side by side: the same held-back prompts or edits, the same seeds, the exact judge.

A folder holds one comparison. Verdicts are written after every batch, so an interrupted comparison resumes:

DIR/run.json       the table, the checkpoints by content, the settings, the versions: what decides the verdicts
DIR/verdicts/      a file for each column, a line for each batch
DIR/results.json   the numbers with the machine; results.md is the same for a person
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..checkpoint import Checkpoint
from ..checkpoint.bundled import display_name
from ..diffusion.reference_mode import Strengths
from ..errors import Blip3oError, bullet_list, shown
from ..files import append_lines, check_writable, held, read_bytes, read_json, write_json
from ..images.reader import MAX_BYTES
from ..pipeline import Pipeline
from ..seeds import row_seeds
from ..tiny import edit_evaluation, evaluation
from ..tiny.scenes.spec import Verdict
from ..tiny.scenes.world import CANVASES, SQUARE
from .results import item_means, over_items
from .run_folder import differences

_SHAPES = {SQUARE: "square images", **{canvas: f"{name} images" for name, canvas in CANVASES.items()}}
_ELSEWHERE = "Choose another --out, or restore what was changed."

Key = tuple[int, int]  # of a batch: (run over all items with sampling seeds of its own, its first item)


@dataclass(frozen=True)
class Measure:
    title: str
    attribute: str  # of a verdict
    scale: float  # of the table's unit
    digits: int


@dataclass(frozen=True)
class Column:
    """A checkpoint of a table. `reference_mode`: of edits. `against`: the column that this one is compared with."""

    name: str
    checkpoint: Checkpoint
    reference_mode: str | None = None
    against: str | None = None


class Questions(Protocol):
    """What every column is asked: items in a fixed order, in batches, several runs over them."""

    @property
    def settings(self) -> Any: ...

    @property
    def runs(self) -> int: ...

    @property
    def measures(self) -> Sequence[Measure]: ...

    @property
    def categories(self) -> Sequence[str]:
        """That of each item."""

    @property
    def shapes(self) -> Sequence[str]:
        """That of each item's image."""

    def judge(self, pipeline: Pipeline, reference_mode: str | None, run: int, first: int) -> list[Verdict]:
        """The verdicts of the batch that begins with the item `first`."""


@dataclass(frozen=True)
class Images:
    """Prompts: is their image right?"""

    settings: evaluation.Settings
    measures = (Measure("Right images, %", "strict", 100.0, 1),)

    @property
    def runs(self) -> int:
        return self.settings.seeds

    @cached_property
    def prompts(self) -> list[evaluation.Prompt]:
        return evaluation.make_prompts(self.settings)

    @property
    def categories(self) -> list[str]:
        return [prompt.category for prompt in self.prompts]

    @property
    def shapes(self) -> list[str]:
        return [_SHAPES[prompt.scene.canvas] for prompt in self.prompts]

    def judge(self, pipeline: Pipeline, reference_mode: str | None, run: int, first: int) -> list[Verdict]:
        batch = self.prompts[first : first + self.settings.batch]
        seeds = row_seeds(run * evaluation.SEED_STRIDE, len(batch), first)
        stopwatch = evaluation.Stopwatch(pipeline.device)
        return evaluation.judge_batch(pipeline, evaluation.CODES, batch, seeds, self.settings, stopwatch)[1]


@dataclass(frozen=True)
class Edits:
    """Edits: are they right, and how much changed where nothing may?"""

    settings: edit_evaluation.Settings
    runs: int = 1
    measures = (
        Measure("Right edits, %", "strict", 100.0, 1),
        Measure("Error outside the edit, of 255", "outside", 1.0, 2),
        Measure("Error of textures outside the edit, of 255", "surfaces", 1.0, 2),
    )

    @cached_property
    def pairs(self) -> list:
        return edit_evaluation.make_edits(self.settings)

    @property
    def categories(self) -> list[str]:
        return [edit.kind for edit, _ in self.pairs]

    @property
    def shapes(self) -> list[str]:
        return [_SHAPES[edit.target.canvas] for edit, _ in self.pairs]

    def judge(self, pipeline: Pipeline, reference_mode: str | None, run: int, first: int) -> list[Verdict]:
        batch = self.pairs[first : first + self.settings.batch]
        seeds = row_seeds(run * evaluation.SEED_STRIDE, len(batch), first)
        where = str(pipeline.checkpoint.folder)
        _, mode = pipeline.reference_mode.select(reference_mode or "auto", Strengths(), where)
        return edit_evaluation.judge_batch(pipeline, batch, seeds, replace(self.settings, seed=0), mode)[1]


def compare(
    table: str,
    columns: Sequence[Column],
    questions: Questions,
    folder: Path,
    load: Callable[[Checkpoint], Pipeline],
    facts: Mapping[str, Any],
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Judge what was not judged yet in every column -> the content of results.json but for the machine.

    `facts`: what else decides a verdict, such as versions. `progress(column, done, total)` runs after each batch.
    Raises Blip3oError where the folder belongs to another comparison, or a reference mode is not supported.
    """
    for column in columns:
        if column.reference_mode is not None:
            column.checkpoint.reference_mode.select(
                column.reference_mode, Strengths(), str(column.checkpoint.folder)
            )  # before anything is made
    run = _begin(folder, _run(table, columns, questions, facts))
    with held(folder / "run.json", f"Another command works in {shown(folder)}. Wait until it ends."):
        (folder / "verdicts").mkdir(exist_ok=True)
        pipelines: dict[str, Pipeline] = {}
        values: dict[str, dict[Key, list]] = {}
        for column in columns:
            path = folder / "verdicts" / f"{column.name.replace(' ', '-')}.jsonl"
            known = values[column.name] = _read(path)
            missing = [batch for batch in _batches(questions) if batch not in known]
            identity = column.checkpoint.identity
            if missing and identity not in pipelines:
                pipelines = {identity: load(column.checkpoint)}  # the one before is not needed any more
            for done, (turn, first) in enumerate(missing, 1):
                verdicts = questions.judge(pipelines[identity], column.reference_mode, turn, first)
                known[turn, first] = [_numbers(verdict, questions.measures) for verdict in verdicts]
                line = {"run": turn, "first": first, "verdicts": known[turn, first]}
                append_lines(path, [json.dumps(line)])
                progress(column.name, done, len(missing))
    measured = [_measured(one, columns, questions, values) for one in questions.measures]
    judged = [one for one in measured if any(each["overall"] for each in one["columns"].values())]
    return {**run, "measures": judged}  # a world without textures has no error of theirs


def _run(table: str, columns: Sequence[Column], questions: Questions, facts: Mapping[str, Any]) -> dict[str, Any]:
    own = {
        one.name: {
            "name": display_name(one.checkpoint.folder),
            "identity": one.checkpoint.identity,
            "reference_mode": one.reference_mode,
            "against": one.against,
        }
        for one in columns
    }
    settings = {**asdict(questions.settings), "runs": questions.runs}
    return {"format": "blip3o insights", "version": 1, "table": table, "columns": own, "settings": settings, **facts}


def _begin(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Make it the folder of this comparison, or see that it is."""
    path, own = folder / "run.json", json.loads(json.dumps(run))
    check_writable([path])
    if not path.is_file():
        write_json(path, own)
        return own
    changed = [
        f"{name}: {shown(old, 80)} in the folder, {shown(new, 80)} now"
        for name, old, new in differences(read_json(path, _ELSEWHERE), own)
        if not (name.startswith("columns.") and name.endswith(".name"))  # what a folder is called decides nothing
    ]
    if changed:
        raise Blip3oError(f"{shown(folder)} belongs to a different comparison:\n{bullet_list(changed)}\n{_ELSEWHERE}")
    return own


def _batches(questions: Questions) -> list[Key]:
    count, step = len(questions.categories), questions.settings.batch
    return [(run, first) for run in range(questions.runs) for first in range(0, count, step)]


def _numbers(verdict: Verdict, measures: Sequence[Measure]) -> list[float | None]:
    found = [getattr(verdict, one.attribute) for one in measures]
    return [None if value is None else float(value) for value in found]


def _read(path: Path) -> dict[Key, list[list[float | None]]]:
    """The verdicts of each batch. A line that a kill cut short is left out: its batch is judged again."""
    found = {}
    if path.is_file():
        for line in read_bytes(path, "Move it away: it is made again.", MAX_BYTES).split(b"\n"):
            try:
                entry = json.loads(line)
                found[entry["run"], entry["first"]] = entry["verdicts"]
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _measured(
    measure: Measure, columns: Sequence[Column], questions: Questions, values: Mapping[str, Mapping[Key, list]]
) -> dict[str, Any]:
    """Means of a measure in each column, and of the differences of the same items and seeds."""
    place = questions.measures.index(measure)
    by_column = {name: _by_item(known, place) for name, known in values.items()}
    numbers = {name: _summary(own, questions) for name, own in by_column.items()}
    against = {}
    for one in columns:
        if one.against is not None:
            before, now = by_column[one.against], by_column[one.name]
            against[one.name] = _summary({key: now[key] - before[key] for key in now.keys() & before.keys()}, questions)
    return {**asdict(measure), "columns": numbers, "differences": against}


def _by_item(known: Mapping[Key, list[list[float | None]]], place: int) -> dict[tuple[str, int], float]:
    """(item, run) -> a measure, of the verdicts that have it."""
    found = {}
    for (run, first), batch in known.items():
        for k, numbers in enumerate(batch):
            value = numbers[place]
            if value is not None:
                found[str(first + k), run] = value
    return found


def _summary(values: Mapping[tuple[str, int], float], questions: Questions) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals and standard errors: by category, over the categories, by shape of image."""
    means = item_means(dict(sorted(values.items())))
    categories = {str(item): name for item, name in enumerate(questions.categories)}
    shapes = {str(item): name for item, name in enumerate(questions.shapes)}
    found = over_items(means, categories, dict.fromkeys(questions.categories, 1.0))
    groups = _groups(means, categories)
    if found["overall"]:
        found["overall"]["error"] = _error(list(groups.values()))
    by_shape = over_items(means, shapes, None)["categories"] if len(set(questions.shapes)) > 1 else {}
    for about, own in ((found["categories"], groups), (by_shape, _groups(means, shapes))):
        for name, one in about.items():
            one["error"] = _error([own[name]])
    return {**found, "shapes": by_shape}


def _groups(means: Mapping[str, float], names: Mapping[str, str]) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for item, name in names.items():
        if item in means:
            groups.setdefault(name, []).append(means[item])
    return groups


def _error(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard error of the mean of the groups' means; None where a group has one item."""
    if any(len(one) < 2 for one in groups):
        return None
    return float(np.sqrt(sum(np.var(one, ddof=1) / len(one) for one in groups)) / len(groups))
