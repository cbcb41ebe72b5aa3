"""How often the tiny model draws what it is told, and which of its parts errs. One picture per prompt, no choosing.

- "codes": the whole model. "true-codes": the image tokenizer's codes of the true picture in place of sampled ones, so
  that only rendering can err. "autoencoder": the true picture there and back.
- Prompt k is of category k % 8, so every count is spread evenly and a smaller count asks the first of a larger one's.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from ..decoding.sampling import Sampling
from ..errors import Blip3oError
from ..models import autoencoder
from ..pipeline import Pipeline
from ..seeds import row_seeds
from .judge.judge import judge_image, to_pixels
from .scenes.captions import caption
from .scenes.rasterize import rasterize
from .scenes.spec import Verdict, spec_of
from .scenes.world import CATEGORIES, SPLITS, Scene, World, check_choice, make_scene

WAYS = CODES, TRUE_CODES, AUTOENCODER = "codes", "true-codes", "autoencoder"
SCENES = 1000  # seed of the scenes: none that a stage of the training looks at
APART = 2**20  # between the sampling seeds of two runs over the prompts
STEPS, GUIDANCE = 20, 2.0  # that suit the bundled model; the stock KSampler is exact at 20


@dataclass(frozen=True)
class Settings:
    count: int = 1000  # prompts
    seeds: int = 3  # runs over all of them, each with sampling seeds of its own
    split: str = "held_back"
    steps: int = STEPS
    guidance: float = GUIDANCE
    sampling: Sampling = field(default=Sampling())
    any_phrasing: bool = False  # else the plain grammar's
    low_contrast: bool = False  # pairs like purple on blue are asked for as well
    batch: int = 50

    def __post_init__(self):
        check_choice("split", self.split, SPLITS)
        if not len(CATEGORIES) <= self.count <= APART:
            raise Blip3oError(
                f"count is {self.count}; give {len(CATEGORIES)} to {APART} prompts, at least one of each category."
            )
        for name in ("seeds", "batch"):
            if getattr(self, name) < 1:
                raise Blip3oError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def world(self) -> World:
        return World(snapped=True, low_contrast=self.low_contrast)


@dataclass(frozen=True)
class Prompt:
    category: str
    text: str
    scene: Scene


@dataclass(frozen=True)
class Result:
    """Verdicts of one way; shares are of 1 and means over all sampling seeds."""

    way: str
    settings: Settings
    prompts: tuple[Prompt, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]  # (seeds, count)
    pictures: np.ndarray = field(repr=False)  # (count, S, S, 3) uint8, of the first seed
    seconds: dict[str, float]  # a picture, in batches: encoding, tokens, rendering, decoding, as far as there are

    @property
    def by_category(self) -> dict[str, float]:
        return self._shares(lambda verdict: verdict.strict)

    @property
    def layout(self) -> dict[str, float]:
        return self._shares(lambda verdict: verdict.layout)

    @property
    def mean(self) -> float:
        """Of the eight categories, each weighing the same."""
        return _mean(self.by_category.values())

    @property
    def weakest(self) -> str:
        return min(self.by_category, key=self.by_category.get)

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of each sampling seed."""
        rows = ([verdict.strict for verdict in row] for row in self.verdicts)
        return tuple(_mean(self._by_category(row).values()) for row in rows)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the means over sampling seeds; None for one seed."""
        return float(np.std(self.means, ddof=1)) if len(self.means) > 1 else None

    def failures(self, category: str | None = None) -> dict[str, float]:
        """Kind -> share of pictures that have it, the most frequent first; a picture may have several."""
        counts, total = Counter(), 0
        for row in self.verdicts:
            for prompt, verdict in zip(self.prompts, row, strict=True):
                if category in (None, prompt.category):
                    counts.update(set(map(failure_kind, verdict.reasons)))
                    total += 1
        return {kind: count / total for kind, count in counts.most_common()}

    def _shares(self, right: Callable[[Verdict], bool]) -> dict[str, float]:
        return self._by_category(np.mean([[right(verdict) for verdict in row] for row in self.verdicts], 0))

    def _by_category(self, values) -> dict[str, float]:
        """One value a prompt -> their mean in each category."""
        pairs = list(zip(self.prompts, values, strict=True))
        return {name: _mean([value for prompt, value in pairs if prompt.category == name]) for name in CATEGORIES}


def prompts(settings: Settings) -> list[Prompt]:
    """The same for the same count, split, phrasing and contrast, whatever is drawn from them."""
    found = []
    for index in range(settings.count):
        category = CATEGORIES[index % len(CATEGORIES)]
        scene = make_scene(SCENES, settings.split, index // len(CATEGORIES), settings.world, category)
        found.append(Prompt(category, caption(scene, index, plain=not settings.any_phrasing), scene))
    return found


def evaluate(
    pipeline: Pipeline,
    settings: Settings = Settings(),
    way: str = CODES,
    progress: Callable[[int, int, object], None] | None = None,
) -> Result:
    """Draw and judge every prompt. `progress(done, total, None)` runs after each batch.

    While parts are trained, `Pipeline.of` makes the pipeline. The autoencoder knows no chance: one run serves it.
    """
    check_choice("way", way, WAYS)
    asked, watch = prompts(settings), Stopwatch(pipeline.device)
    runs = 1 if way == AUTOENCODER else settings.seeds
    verdicts, pictures = [], []
    for run in range(runs):
        row = []
        for first in range(0, settings.count, settings.batch):
            group = asked[first : first + settings.batch]
            seeds = row_seeds(run * APART, len(group), first)
            images = [to_pixels(image) for image in _draw(pipeline, way, group, seeds, settings, watch)]
            row += [judge_image(image, spec_of(prompt.scene)) for image, prompt in zip(images, group, strict=True)]
            pictures += images if run == 0 else []
            if progress is not None:
                progress(run * settings.count + len(row), runs * settings.count, None)
        verdicts.append(tuple(row))
    seconds = {part: spent / (runs * settings.count) for part, spent in watch.spent.items()}
    return Result(way, settings, tuple(asked), tuple(verdicts), np.stack(pictures), seconds)


def measure_speed(pipeline: Pipeline, settings: Settings, count: int = 5) -> dict[str, float]:
    """Seconds per picture drawn one at a time, by part: the median of `count`, after one that warms up."""
    asked, spent = prompts(settings)[: count + 1], []
    for index, prompt in enumerate(asked):
        watch = Stopwatch(pipeline.device)
        _draw(pipeline, CODES, [prompt], [index], settings, watch)
        spent.append(watch.spent)
    return {part: float(np.median([one[part] for one in spent[1:]])) for part in spent[0]}


class Stopwatch:
    """Seconds by part, waiting for the device each time."""

    def __init__(self, device: torch.device):
        self.device, self.spent = device, {}

    @contextmanager
    def part(self, name: str):
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - started


def _draw(pipeline, way: str, group: list[Prompt], seeds: list[int], settings: Settings, watch: Stopwatch):
    """(B, S, S, 3) float32 in [0, 1] on the CPU."""
    if way == CODES:
        with watch.part("tokens"):
            tokens = pipeline.generate_tokens([prompt.text for prompt in group], seeds, settings.sampling)
    else:
        drawn = np.stack([rasterize(prompt.scene, pipeline.checkpoint.trained_side) for prompt in group])
        true = torch.from_numpy(drawn).to(pipeline.device) / 255
        with watch.part("encoding"):
            if way == AUTOENCODER:
                latents = autoencoder.encode(pipeline.autoencoder, true) * pipeline.autoencoder.config.scaling_factor
            else:
                tokens = pipeline.tokens_of(true, [prompt.text for prompt in group])
    if way != AUTOENCODER:
        with watch.part("rendering"):
            latents = pipeline.latents(tokens, seeds, None, settings.steps, settings.guidance)
    with watch.part("decoding"):
        images = pipeline.decode(latents)
    return images.cpu().numpy()


_KINDS = {
    "shape unclear": r"^an unclear shape instead of ",
    "another shape": r"^an? [a-z]+ instead of the ",
    "background": r"^the background is ",
    "cut off": r" is cut off at the edge$",
    "size": r" is (small|large) \(radius ",
    "position": r" is not (left of|right of|above|below) ",
    "colour unclear": r" is an unclear colour$",
    "another colour": r"^the [a-z ]+ is [a-z]+$",
}
OTHER = "other"


def failure_kind(reason: str) -> str:
    """What a verdict's reason is about. A missing object is one of too few."""
    number = re.match(r"^(no|\d+) objects? instead of (\d+)$", reason)
    if number:
        few = number[1] == "no" or int(number[1]) < int(number[2])
        return "too few objects" if few else "too many objects"
    if reason.endswith(" is missing"):
        return "too few objects"
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, reason)), OTHER)


def _mean(values) -> float:
    return float(np.mean(list(values)))
