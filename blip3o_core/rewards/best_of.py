"""The best of several images of one prompt: make them with different seeds, score them, keep the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..decoding.sampling import Sampling
from ..settings import load_settings
from .interface import Candidates
from .load import load_rewards
from .mix import RewardMix, Scores
from .settings import RewardList, RewardSettings

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..tokens.image_tokens import ImageTokens


@dataclass(frozen=True)
class Chosen:
    """What rewards said of several images, and which of them is the best; None where no image got a score."""

    scores: Scores
    totals: list[float | None]
    best: int | None


def ranking(scores: Sequence[float | None]) -> list[int]:
    """The places of the scores from the best down. Of equal ones the first comes first; None is left out."""
    judged = [place for place, score in enumerate(scores) if score is not None]
    return sorted(judged, key=lambda place: -scores[place])  # sorting keeps the order of equals


def read_rewards(words: Sequence[str | Mapping[str, Any]], own_code: bool = False) -> RewardMix:
    """Rewards from their names and settings, or from YAML files that list them. `own_code`: as for `load_rewards`."""
    entries: list[RewardSettings | str | Mapping[str, Any]] = []
    for word in words:
        is_file = isinstance(word, str) and Path(word).suffix.lower() in (".yaml", ".yml")
        entries += load_settings(RewardList, str(word)).rewards if is_file else [word]
    return load_rewards(entries, own_code)


def choose(mix: RewardMix, candidates: Candidates) -> Chosen:
    """Score images of one prompt. Raises Blip3oError where a reward fails that stops a run."""
    scores = mix.score(candidates)
    totals = mix.totals(scores)
    return Chosen(scores, totals, next(iter(ranking(totals)), None))


def render_each(
    pipeline: "Pipeline", tokens: "ImageTokens", noise_seeds: Sequence[int], together: int = 1, **rendering
) -> list[torch.Tensor]:
    """Every row as an image (H, W, 3) on the CPU, `together` at a time: a batch of images takes its memory at once.

    `rendering`: of `Pipeline.render`. With `together` 1 every image is what its row alone gives, to the bit.
    """
    images: list[torch.Tensor] = []
    for first in range(0, len(tokens), together):
        rows = slice(first, first + together)
        images += pipeline.render(tokens.rows(rows), list(noise_seeds[rows]), **rendering).cpu()
    return images


def best_of(
    pipeline: "Pipeline",
    mix: RewardMix,
    prompt: str,
    seeds: Sequence[int],
    noise_seeds: Sequence[int] | None = None,
    sampling: Sampling = Sampling(),
    **rendering,
) -> tuple[list[torch.Tensor], Chosen]:
    """One image of the prompt per seed, and the choice among them. Noise has the same seeds, unless it gets its own.

    The tokens of all are written as one batch. Image k alone is `generate_tokens` and `render` with its two seeds.
    """
    tokens = pipeline.generate_tokens([prompt] * len(seeds), list(seeds), sampling)
    images = render_each(pipeline, tokens, seeds if noise_seeds is None else noise_seeds, **rendering)
    return images, choose(mix, Candidates(images, [prompt] * len(images)))
