"""Runs of one task side by side: what differs between them, and by how much their numbers do.

Seeds depend on task, item and sample alone, so two runs answer the same question from the same noise. The mean of these
pairs' differences is surer than the difference of two means: what makes an item hard for both drops out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, shown
from ..files import parse_json, read_json, read_lines
from .results import item_means, over_items
from .run_folder import RunFolder, differences
from .scoring import Key, read_scores

_REMEDY = "Give folders of finished runs of `blip3o evaluate`."
_FEW = 3  # things that a warning names


@dataclass(frozen=True)
class Run:
    """A finished run: its results, its items by id with category, prompt and digest, and what scorers said."""

    name: str
    folder: RunFolder
    results: Mapping[str, Any]
    items: Mapping[str, Mapping[str, str]]

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.results["run"]

    @cached_property
    def scorers(self) -> Mapping[str, Mapping[str, Any]]:
        return {one["name"]: one for one in self.results["scorers"]}

    def values(self, scorer: str, measure: str) -> dict[Key, float]:
        """(item, sample) -> a measure, as the scorer of the results gave it, of images that the results count."""
        lost = {(one["item"], one["sample"]) for one in self.results["images"]["failed"]}
        found = {}
        for one in read_scores(self.folder.scores(scorer)):
            value = (one.measures or {}).get(measure)
            if value is not None and one.key not in lost and one.version == self.scorers[scorer]["version"]:
                found[one.key] = value
        return found


@dataclass(frozen=True)
class Compared:
    """A measure of a scorer in each run, as in results.json, and by how much it differs from the first run's.

    None: the run has no such number, or it measures something else.
    """

    scorer: str
    measure: str
    numbers: Sequence[Mapping[str, Any] | None]
    differences: Sequence[Mapping[str, Any] | None]  # as `numbers`; None for the first run

    @property
    def title(self) -> str:
        return f"{self.scorer}: {self.measure}"

    @property
    def categories(self) -> list[str]:
        """With a row each: none where the task has no categories."""
        names = list(dict.fromkeys(name for one in self.numbers if one for name in one["categories"]))
        return names if len(names) > 1 or names[:1] != [""] else []


@dataclass(frozen=True)
class Comparison:
    task: str
    runs: Sequence[Run]
    differing: Sequence[tuple[str, Sequence[Any]]]  # (a setting, its value in each run)
    warnings: Sequence[str]
    measures: Sequence[Compared]


def compare(paths: Sequence[Path]) -> Comparison:
    """The runs in folders, against the first of them.

    Raises Blip3oError for a folder without results, and for runs of different tasks or without an item in common.
    """
    runs = _open(paths)
    first = runs[0]
    for run in runs[1:]:
        if run.results["task"] != first.results["task"]:
            raise Blip3oError(
                f"{run.name} is a run of {run.results['task']}, and {first.name} of {first.results['task']}. Compare "
                "runs of one task."
            )
        if not shared_items(first, run):
            raise Blip3oError(
                f"{run.name} and {first.name} have no item in common: they were made from different files or options "
                f"of {first.results['task']}. Compare runs of the same items."
            )
    warnings = [words for run in runs[1:] for words in _doubts(first, run)]
    warnings += [words for run in runs for words in _gaps(run)]
    return Comparison(
        first.results["task"], runs, list(_differing(runs)), warnings, [_compared(runs, *one) for one in _named(runs)]
    )


def shared_items(first: Run, other: Run) -> list[str]:
    """The ids of items that ask for the same in both."""
    return [one for one, about in first.items.items() if other.items.get(one, {}).get("digest") == about["digest"]]


def _open(paths: Sequence[Path]) -> list[Run]:
    places = [path.parent if path.name == "results.json" else path for path in paths]
    for number, place in enumerate(places):
        if place.resolve() in [one.resolve() for one in places[:number]]:
            raise Blip3oError(f"{shown(place)} is given twice. Give each run once.")
    names = [place.resolve().name for place in places]
    return [
        _read(place, shown(name if names.count(name) == 1 else place, 60))
        for place, name in zip(places, names, strict=True)
    ]


def _read(place: Path, name: str) -> Run:
    folder = RunFolder(place)
    if not folder.results.is_file():
        raise Blip3oError(f"{shown(place)} has no results.json. {_REMEDY}")
    results = read_json(folder.results, _REMEDY)
    items = {}
    try:
        for line in read_lines(folder.items, _REMEDY):
            about = parse_json(line, shown(folder.items), _REMEDY)
            items[about["id"]] = {key: str(about[key]) for key in ("category", "prompt", "digest")}
        run = Run(name, folder, results, items)
        _ = results["task"], results["task_version"], results["weights"], results["images"]["wanted"]
        _ = [(one["item"], one["sample"]) for one in results["images"]["failed"]]
        _ = run.facts["checkpoint"]["name"], run.facts["settings"]["samples"]
        _ = [(one["version"], one["decisive"], one["failures"], one["measures"].keys()) for one in run.scorers.values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise Blip3oError(
            f"{shown(place)} was written by another program or version: {error} is missing. Run the same command of "
            "`blip3o evaluate` on it again."
        ) from error
    return run


def _differing(runs: Sequence[Run]) -> Iterator[tuple[str, list[Any]]]:
    """Every fact of run.json that is not the same in all runs. Items are compared apart."""
    about = [{key: value for key, value in run.facts.items() if key != "task"} for run in runs]
    names = dict.fromkeys(name for other in about[1:] for name, *_ in differences(about[0], other))
    for name in names:
        yield name, [_at(one, name) for one in about]


def _at(facts: Any, name: str) -> Any:
    for part in name.split("."):
        facts = facts.get(part) if isinstance(facts, Mapping) else None
    return facts


def _doubts(first: Run, run: Run) -> Iterator[str]:
    """Why the numbers of two runs may mean different things."""
    old, new = first.results["task_version"], run.results["task_version"]
    if old != new:
        yield f"{run.name} has version {new} of the task, and {first.name} version {old}: its items are not the same."
    shared, counts = len(shared_items(first, run)), (len(first.items), len(run.items))
    if shared != max(counts):
        yield (
            f"{run.name} has {counts[1]:,} items and {first.name} {counts[0]:,}; {shared:,} are the same. Each mean is "
            "over the run's own items, each difference over those that are the same."
        )
    old, new = first.facts["settings"]["samples"], run.facts["settings"]["samples"]
    if old != new:
        yield (
            f"{run.name} has {new} samples of each item and {first.name} {old}. Differences use the samples that both "
            "have."
        )
    for name in (one for one in first.scorers if one in run.scorers):
        if reasons := _unlike(first.scorers[name], run.scorers[name]):
            yield (
                f"The scorer {name} is not the same in {run.name} and {first.name}: {', '.join(reasons[:_FEW])}. Its "
                "numbers cannot be compared, and no difference is given."
            )
    if not list(_differing([first, run])):
        yield f"{run.name} and {first.name} have the same checkpoint, settings and versions."


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two scorers of one name; the model of a judge and the like come first."""
    found = list(differences(one["decisive"], other["decisive"]))
    found += [("version", one["version"], other["version"])] * (one["version"] != other["version"])
    return [f"{name} {_words(new)} and {_words(old)}" for name, old, new in found]


def _words(value: Any) -> str:
    return "nothing" if value is None else shown(value, 60)


def _gaps(run: Run) -> Iterator[str]:
    """What a run lacks."""
    images = run.results["images"]
    if missing := images["wanted"] - images["made"]:
        yield f"{missing:,} of {images['wanted']:,} images of {run.name} could not be made. They count in no mean."
    for name, scorer in run.scorers.items():
        if scorer["failures"]:
            yield f"{scorer['failures']:,} images of {run.name} could not be judged by {name}. They count in no mean."


def _named(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(scorer, measure) of all runs, in the order of the first that has it."""
    return list(
        dict.fromkeys((name, which) for run in runs for name, one in run.scorers.items() for which in one["measures"])
    )


def _compared(runs: Sequence[Run], scorer: str, measure: str) -> Compared:
    numbers = [run.scorers.get(scorer, {}).get("measures", {}).get(measure) for run in runs]
    first = runs[0]
    found: list[Mapping[str, Any] | None] = [None]
    before = first.values(scorer, measure) if numbers[0] else {}
    for run, number in zip(runs[1:], numbers[1:], strict=True):
        unlike = not number or not before or _unlike(first.scorers[scorer], run.scorers[scorer])
        found.append(None if unlike else _difference(first, run, before, run.values(scorer, measure)))
    return Compared(scorer, measure, numbers, found)


def _difference(first: Run, run: Run, before: Mapping[Key, float], now: Mapping[Key, float]) -> dict[str, Any] | None:
    """Means of the differences of pairs with their intervals, or None without a pair."""
    same = set(shared_items(first, run))
    pairs = {key: now[key] - before[key] for key in before.keys() & now.keys() if key[0] in same}
    categories = {item: about["category"] for item, about in first.items.items()}
    found = over_items(item_means(pairs), categories, first.results["weights"])
    return found if found["overall"] else None
