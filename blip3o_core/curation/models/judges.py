"""Rewards as judges of samples: a number of each for every sample, or why there is none.

A judge that fails costs samples their number, and nothing else, unless its `on_error` is stop.
"""

from collections.abc import Sequence
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
    faults: list[str] = field(default_factory=list)


class Judges:
    """The judges of one piece."""

    def __init__(self, settings: CurationSettings):
        self._settings = settings.judges
        self._failures = dict.fromkeys((judge.name for judge in settings.judges), 0)

    def __call__(self, samples: Sequence[Sample]) -> list[Judged]:
        """What each judge says about each of these samples, all of which can be read."""
        found = [Judged() for _ in samples]
        if not self._settings:
            return found
        candidates = _candidates(samples)
        for judge in self._settings:
            for one, (number, why) in zip(found, self._ask(judge, candidates), strict=True):
                one.numbers[judge.name] = number
                if number is None and why:
                    one.faults.append(f"judge {judge.name}: {why}")
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
    from ...rewards.interface import Candidates

    (part,) = mix.parts
    scores = mix.score(candidates)
    values = scores.parts[part.name]
    failed = bool(scores.failed) and all(value is None for value in values)
    if not failed or part.elsewhere or len(values) == 1:
        return list(zip(values, scores.why[part.name], strict=True)), failed
    found: list[tuple[float | None, str]] = []
    for place in range(len(values)):
        one = slice(place, place + 1)
        alone = Candidates(
            candidates.images[one], candidates.prompts[one], candidates.references[one], meta=candidates.meta[one]
        )
        scores = mix.score(alone)
        found.append((scores.parts[part.name][0], scores.why[part.name][0]))
    return found, all(value is None for value, _ in found)


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
