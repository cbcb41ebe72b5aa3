"""Pass 1 with models: rows that were measured, in small batches -> the same rows with what models say."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..decisions import judge_column
from ..features import text_features
from ..sample import Sample
from ..settings import CurationSettings
from .captions import CAPTIONS, Captions, captions_of, forget_writer, writer
from .judges import Judges, judge_versions

BATCH = 8  # samples that models look at together
FAULTS = "faults"  # the column of what models could not say
AGAIN = "again"  # the column of those models that the next run asks again, because they gave no answer


@dataclasses.dataclass(frozen=True)
class Row:
    """The features of a sample before models look at it."""

    features: dict[str, Any]
    sample: Sample | None = None  # None: no model looks at it
    known: Mapping[str, Any] | None = None  # its row of an earlier run


def uses_models(settings: CurationSettings) -> bool:
    return bool(settings.judges or settings.captions)


def model_versions(settings: CurationSettings) -> dict[str, str]:
    """What tells the models from other ones that might say something else. Raises Blip3oError for one that fails."""
    versions = {f"judge {name}": version for name, version in judge_versions(settings).items()}
    forget_writer()
    return versions | ({"captions": writer(settings.captions).version} if settings.captions else {})


def with_models(rows: Iterable[Row], settings: CurationSettings, piece: str) -> Iterator[dict[str, Any]]:
    """The rows of a piece in their order."""
    if not uses_models(settings):
        yield from (row.features for row in rows)
        return
    models = _Models(Judges(settings), captions_of(settings, piece))
    waiting, samples = list[Row](), 0
    for one in rows:
        waiting.append(one)
        samples += one.sample is not None
        if samples == BATCH:
            yield from models.looked_at(waiting)
            waiting, samples = [], 0
    yield from models.looked_at(waiting)


@dataclasses.dataclass
class _Models:
    """What looks at the samples of one piece."""

    judges: Judges
    captions: Captions | None

    def looked_at(self, batch: list[Row]) -> Iterator[dict[str, Any]]:
        """The rows: with new texts first, then with what judges say about images and these texts."""
        looked = iter(self._look([row for row in batch if row.sample is not None]))
        for row in batch:
            yield row.features if row.sample is None else {**row.features, **next(looked)}

    def _look(self, rows: list[Row]) -> list[dict[str, Any]]:
        """What is new in each row that has a sample."""
        if not rows:
            return []
        samples = [row.sample for row in rows if row.sample is not None]
        found: list[dict[str, Any]] = [{FAULTS: [], AGAIN: []} for _ in samples]
        if self.captions is not None:
            for place, new in enumerate(self.captions(samples)):
                found[place][FAULTS] += new.faults
                found[place][AGAIN] += [CAPTIONS] if new.again else []
                if new.texts != samples[place].texts:
                    samples[place] = dataclasses.replace(samples[place], texts=new.texts)
                    found[place] |= {"texts": list(new.texts), **text_features(new.texts)}
                    found[place]["kind"] = samples[place].kind
        known = [_numbers(row.known, sample.texts) for row, sample in zip(rows, samples, strict=True)]
        for row, judged in zip(found, self.judges(samples, known), strict=True):
            row.update({judge_column(name): number for name, number in judged.numbers.items()})
            row[FAULTS] += [f"{judge_name(name)}: {why}" for name, why in judged.faults.items()]
            row[AGAIN] += map(judge_name, judged.faults)
        return found


def _numbers(known: Mapping[str, Any] | None, texts: Sequence[str]) -> dict[str, float | None]:
    """What judges said about a sample in an earlier run, where it had the same texts."""
    if known is None or known["texts"] != list(texts):
        return {}
    names = [column.removeprefix(judge_column("")) for column in known if column.startswith(judge_column(""))]
    return {name: known[judge_column(name)] for name in names if judge_name(name) not in known[AGAIN]}


def judge_name(name: str) -> str:
    """A judge as faults name it."""
    return f"judge {name}"
