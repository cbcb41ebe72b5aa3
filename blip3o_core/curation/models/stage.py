"""Pass 1 with models: rows that were measured, in small batches -> the same rows with what models say."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from ..decisions import judge_column
from ..sample import Sample
from ..settings import CurationSettings
from .judges import Judges, judge_versions

BATCH = 8  # samples that models look at together
FAULTS = "faults"  # the column of what models could not say


def uses_models(settings: CurationSettings) -> bool:
    return bool(settings.judges)


def model_versions(settings: CurationSettings) -> dict[str, str]:
    """What tells the models from other ones that might say something else. Raises Blip3oError for one that fails."""
    return {f"judge {name}": version for name, version in judge_versions(settings).items()}


def with_models(
    rows: Iterable[tuple[dict[str, Any], Sample | None]], settings: CurationSettings
) -> Iterator[dict[str, Any]]:
    """The rows in their order. `rows`: each with its sample; None for one that cannot be read."""
    if not uses_models(settings):
        yield from (row for row, _ in rows)
        return
    judges = Judges(settings)
    waiting: list[tuple[dict[str, Any], Sample | None]] = []
    for one in rows:
        waiting.append(one)
        if len(waiting) == BATCH:
            yield from _looked_at(waiting, judges)
            waiting = []
    yield from _looked_at(waiting, judges)


def _looked_at(batch: list[tuple[dict[str, Any], Sample | None]], judges: Judges) -> Iterator[dict[str, Any]]:
    samples = [dataclasses.replace(sample, texts=tuple(row["texts"])) for row, sample in batch if sample is not None]
    judged = iter(judges(samples) if samples else ())
    for row, sample in batch:
        if sample is None:
            yield row
            continue
        one = next(judged)
        yield {**row, **{judge_column(name): number for name, number in one.numbers.items()}, FAULTS: one.faults}
