"""Rewards as judges of samples: a number of each for every sample, or why there is none.

A judge that fails costs samples their number, and nothing else, unless its `on_error` is stop.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from ...errors import Blip3oError
from ...images.reader import read_image
from ..sample import Sample
from ..settings import CurationSettings, JudgeSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...rewards.interface import Candidates
    from ...rewards.mix import RewardMix

PIXELS = 2**20  # of an image as models see it, at most
PATIENCE = 3  # calls in a row without any answer, until the rest of a piece is not asked about


@dataclass
class Judged:
    """What the judges say about one sample."""

    numbers: dict[str, float | None] = field(default_factory=dict)  # name of a judge -> its number
    faults: dict[str, str] = field(default_factory=dict)  # name of a judge -> why it has no number, where it failed


class Judges:
    """The judges of one piece."""

    def __init__(self, settings: CurationSettings):
        self._settings = settings.judges
        self._failures = dict.fromkeys((judge.name for judge in settings.judges), 0)

    def __call__(self, samples: Sequence[Sample], known: Sequence[Mapping[str, float | None]]) -> list[Judged]:
        """What each judge says about each of these samples, all of which can be read. `known`: what it said before."""
        found = [Judged(dict(one)) for one in known]
        candidates = None
        for judge in self._settings:
            left = [place for place, one in enumerate(found) if judge.name not in one.numbers]
            if not left:
                continue
            candidates = candidates or _candidates(samples)
            for place, (number, why) in zip(left, self._ask(judge, _some(candidates, left)), strict=True):
                found[place].numbers[judge.name] = number
                if number is None and why:
                    found[place].faults[judge.name] = why
        return found

    def _ask(self, judge: JudgeSettings, candidates: "Candidates") -> list[tuple[float | None, str]]:
        """(number, why there is none) for each sample."""
        if self._failures[judge.name] >= PATIENCE:
            why = f"it was not asked, because it failed {PATIENCE} times in a row before."
            return [(None, why)] * len(candidates.images)
        failed = False
        try:
            mix = loaded(judge)
        except Blip3oError as error:
            if judge.on_error == "stop":
                raise
            why, failed = str(error), True
            answers: list[tuple[float | None, str]] = [(None, why)] * len(candidates.images)
        else:
            answers, failed = _asked(mix, candidates)
        self._failures[judge.name] = self._failures[judge.name] + 1 if failed else 0
        return answers


def judge_versions(settings: CurationSettings) -> dict[str, str]:
    """Name -> version of each judge: with another one a sample may get another number. Raises Blip3oError."""
    _load.cache_clear()  # a judge's code or model may have changed since the last curation of this process
    return {judge.name: loaded(judge).versions[judge.name] for judge in settings.judges}


def loaded(judge: JudgeSettings) -> "RewardMix":
    """A judge that is ready; it stays in memory for the next piece. Raises Blip3oError."""
    return _load(judge.model_dump_json(exclude={"min", "max"}))


@lru_cache(maxsize=32)
def _load(judge: str) -> "RewardMix":
    import json

    from ...rewards.load import load_rewards

    return load_rewards([json.loads(judge)], own_code=True)


def _asked(mix: "RewardMix", candidates: "Candidates") -> tuple[list[tuple[float | None, str]], bool]:
    """(number, why there is none) for each sample, and whether nothing was judged because the judge failed.

    Where a judge of this machine fails for all, each sample is judged alone: one of them may be the fault.
    """
    (part,) = mix.parts
    scores = mix.score(candidates)
    values = scores.parts[part.name]
    failed = bool(scores.failed) and all(value is None for value in values)
    if not failed or part.elsewhere or len(values) == 1:
        return list(zip(values, scores.why[part.name], strict=True)), failed
    found: list[tuple[float | None, str]] = []
    for place in range(len(values)):
        scores = mix.score(_some(candidates, [place]))
        found.append((scores.parts[part.name][0], scores.why[part.name][0]))
    return found, all(value is None for value, _ in found)


def _some(candidates: "Candidates", places: Sequence[int]) -> "Candidates":
    """Those at these places."""
    return dataclasses.replace(
        candidates,
        **{one.name: [getattr(candidates, one.name)[k] for k in places] for one in dataclasses.fields(candidates)},
    )


def _candidates(samples: Sequence[Sample]) -> "Candidates":
    from ...images.preprocess import to_tensor
    from ...rewards.interface import Candidates

    return Candidates(
        [to_tensor(seen(sample.image, sample.place))[0] for sample in samples],
        [sample.texts[0] if sample.texts else "" for sample in samples],
        [[to_tensor(seen(one, sample.place))[0] for one in sample.references] for sample in samples],
        meta=[sample.meta for sample in samples],
    )


def seen(data: bytes, place: str) -> "Image":
    """An image as models see it: upright, RGB on white, with about a million pixels at most."""
    from PIL.Image import Resampling

    image = read_image(data, place, least_side=1024).on_white()
    pixels = image.width * image.height
    if pixels <= PIXELS:
        return image
    factor = (PIXELS / pixels) ** 0.5
    sides = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.resize(sides, Resampling.BOX, reducing_gap=2.0)
