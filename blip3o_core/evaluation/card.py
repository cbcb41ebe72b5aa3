"""What a run found, for a model card: the hub's `model-index` and a short table.

A number carries the benchmark's name only where it is the benchmark's: given by its own scorer or judge, over all its
items and samples, with nothing left out. Any other number says what it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from .interface import Scorer, Task
from .results import with_interval
from .reward_scorer import RewardScorer


def card(task: Task, results: Mapping[str, Any], scorers: Sequence[Scorer]) -> str:
    """Markdown. The part between the lines `---` belongs at the top of a model card, the rest below its heading."""
    own = {scorer.name for scorer in scorers if not isinstance(scorer, RewardScorer)}
    found = [_Number(task, results, scorer, measure, own) for scorer, measure in _measured(results)]
    checkpoint, settings = results["run"]["checkpoint"], results["run"]["settings"]
    kind = "image-to-image" if any(item.references for item in task.items) else "text-to-image"
    index = [{"name": checkpoint["name"], "results": [_result(one, kind) for one in found]}]
    lines = ["---", yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True, width=1000) + "---", ""]
    lines += ["| prompts | measure | mean (95 % interval) | items | scorer |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.prompts} | {one.measure} | {with_interval(one.overall)} | {one.overall['n']:,} | {one.scorer['name']} "
        f"{one.scorer['version']} |"
        for one in found
    ]
    notes = dict.fromkeys(note for one in found for note in one.scorer["decisive"].get("notes", []))
    lines += ["", *(f"Note: {note}.\n" for note in notes)]
    lines += [
        f"Checkpoint `{checkpoint['identity']}`"
        + f" with {len(checkpoint['loras'])} LoRAs" * bool(checkpoint["loras"])
        + f"; {', '.join(f'{name} {value}' for name, value in settings.items())}; "
        + f"{', '.join(f'{name} {value}' for name, value in results['run']['versions'].items())}. "
        + f"Made with `blip3o evaluate {task.name}`."
    ]
    if results["official"] and not any(one.is_own for one in found):
        lines += [
            "",
            f"None of these numbers is {task.name}'s own. Run its scorer, see results.md, and add its number.",
        ]
    return "\n".join(lines) + "\n"


class _Number:
    """A measure of a scorer, and what it may be called."""

    def __init__(self, task: Task, results: Mapping[str, Any], scorer: Mapping[str, Any], measure: str, own: set[str]):
        self.scorer, self.measure = scorer, measure
        self.overall = scorer["measures"][measure]["overall"]
        missing = list(_missing(task, results, scorer))
        self.is_own = scorer["name"] in own and not missing and not scorer["decisive"].get("notes")
        self.type = task.name if self.is_own else f"{task.name}-prompts"  # the hub's name of a dataset
        self.prompts = task.name if self.is_own else f"prompts of {task.name}"
        if missing:
            self.prompts += f" ({', '.join(missing)})"


def _measured(results: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for scorer in results["scorers"]:
        for measure, found in scorer["measures"].items():
            if found["overall"]:
                yield scorer, measure


def _missing(task: Task, results: Mapping[str, Any], scorer: Mapping[str, Any]) -> Iterator[str]:
    """What a number leaves out of what the benchmark asks for."""
    items, samples, images = results["run"]["task"]["items"], results["run"]["settings"]["samples"], results["images"]
    if items < len(task.items):
        yield f"{items:,} of {len(task.items):,} items"
    published = getattr(task, "published", None)
    if published is not None and (words := published.difference(task.items)):
        yield words
    if samples < task.samples:
        yield f"{samples} of {task.samples} samples"
    if lost := images["wanted"] - images["made"]:
        yield f"{lost:,} of {images['wanted']:,} images missing"
    if scorer["failures"]:
        yield f"{scorer['failures']:,} of {images['wanted']:,} images not judged"


def _result(one: _Number, kind: str) -> dict[str, Any]:
    low, high, n = (one.overall[name] for name in ("low", "high", "n"))
    return {
        "task": {"type": kind},
        "dataset": {"type": one.type, "name": one.prompts},
        "metrics": [
            {
                "type": one.measure,
                "value": round(one.overall["mean"], 4),
                "name": f"{one.scorer['name']}: {one.measure} (95 % interval {low:.3f} to {high:.3f}, {n:,} items)",
            }
        ],
    }
