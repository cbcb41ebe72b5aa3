"""Pass 1 with models: rows that were measured, in small batches -> the same rows with what models say."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from ..decisions import judge_column
from ..features import text_features
from ..sample import Sample
from ..settings import CurationSettings
from .captions import Captions, captions_of, forget_writer, writer
from .judges import Judges, judge_versions

BATCH = 8  # samples that models look at together
FAULTS = "faults"  # the column of what models could not say

_Row = tuple[dict[str, Any], Sample | None]


def uses_models(settings: CurationSettings) -> bool:
    return bool(settings.judges or settings.captions)


def model_versions(settings: CurationSettings) -> dict[str, str]:
    """What tells the models from other ones that might say something else. Raises Blip3oError for one that fails."""
    versions = {f"judge {name}": version for name, version in judge_versions(settings).items()}
    forget_writer()
    return versions | ({"captions": writer(settings.captions).version} if settings.captions else {})


def with_models(rows: Iterable[_Row], settings: CurationSettings, piece: str) -> Iterator[dict[str, Any]]:
    """The rows of a piece in their order. `rows`: each with its sample; None for one that cannot be read."""
    if not uses_models(settings):
        yield from (row for row, _ in rows)
        return
    models = _Models(Judges(settings), captions_of(settings, piece))
    waiting: list[_Row] = []
    for one in rows:
        waiting.append(one)
        if len(waiting) == BATCH:
            yield from models.looked_at(waiting)
            waiting = []
    yield from models.looked_at(waiting)


@dataclasses.dataclass
class _Models:
    """What looks at the samples of one piece."""

    judges: Judges
    captions: Captions | None

    def looked_at(self, batch: list[_Row]) -> Iterator[dict[str, Any]]:
        """The rows: with new texts first, then with what judges say about images and these texts."""
        samples = [
            dataclasses.replace(sample, texts=tuple(row["texts"])) for row, sample in batch if sample is not None
        ]
        looked = iter(self._look(samples))
        for row, sample in batch:
            yield row if sample is None else {**row, **next(looked)}

    def _look(self, samples: list[Sample]) -> list[dict[str, Any]]:
        """What is new in the row of each sample."""
        if not samples:
            return []
        found: list[dict[str, Any]] = [{FAULTS: []} for _ in samples]
        if self.captions is not None:
            for place, new in enumerate(self.captions(samples)):
                found[place][FAULTS] += new.faults
                if new.texts != samples[place].texts:
                    samples[place] = dataclasses.replace(samples[place], texts=new.texts)
                    found[place] |= {"texts": list(new.texts), **text_features(new.texts)}
                    found[place]["kind"] = samples[place].kind
        for row, judged in zip(found, self.judges(samples), strict=True):
            row.update({judge_column(name): number for name, number in judged.numbers.items()})
            row[FAULTS] += judged.faults
        return found
