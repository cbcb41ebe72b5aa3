"""Measures how often the tiny model's images show what the prompt says, and which part of the model errs.

One image per prompt, none selected. The images come from one of three sources:

- "codes": the whole model.
- "true-codes": the image tokenizer's codes of the true image instead of generated ones, so that only rendering can err.
- "autoencoder": the true image, encoded and decoded.

Prompt k is of category k % 8; the second edition has nine. So every count is spread evenly over the categories, and a
smaller count takes the first prompts of a larger one.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..checkpoint import Checkpoint
from ..decoding.sampling import Sampling
from ..errors import Blip3oError
from ..models import autoencoder
from ..pipeline import Pipeline
from ..seeds import row_seeds
from .judge.judge import judge_image, to_pixels
from .scenes.captions import caption
from .scenes.rasterize import rasterize, size_of
from .scenes.spec import Verdict, spec_of
from .scenes.world import SECOND, SPLITS, Scene, World, check_choice, make_scene

SOURCES = CODES, TRUE_CODES, AUTOENCODER = "codes", "true-codes", "autoencoder"
SCENE_SEED = 1000  # no stage of the training uses it
SEED_STRIDE = 2**20  # between the sampling seeds of two runs over the prompts
SIDES = {1: 64, 2: 128}  # pixels of square images, by edition
STEPS, GUIDANCE = 20, 2.0  # suit the bundled model; the stock KSampler is exact at 20 steps


@dataclass(frozen=True)
class Settings:
    count: int = 1000  # prompts
    seeds: int = 3  # runs over all prompts, each with its own sampling seeds
    split: str = "held_back"
    steps: int = STEPS
    guidance: float = GUIDANCE
    sampling: Sampling = field(default=Sampling())
    any_phrasing: bool = False  # else only the plain grammar
    low_contrast: bool = False  # also pairs of colours like purple on blue
    batch: int = 50
    edition: int = 1  # of the world

    def __post_init__(self):
        check_choice("split", self.split, SPLITS)
        least = len(self.world.categories)
        if not least <= self.count <= SEED_STRIDE:
            raise Blip3oError(f"count is {self.count}. Give {least} to {SEED_STRIDE} prompts, at least one a category.")
        for name in ("seeds", "batch"):
            if getattr(self, name) < 1:
                raise Blip3oError(f"{name} is {getattr(self, name)}. It must be at least 1.")

    @property
    def world(self) -> World:
        return replace(SECOND if self.edition == 2 else World(), low_contrast=self.low_contrast)


@dataclass(frozen=True)
class Prompt:
    category: str
    text: str
    scene: Scene


@dataclass(frozen=True)
class Result:
    """Verdicts on the images of one source. Scores are from 0 to 1, means over all sampling seeds."""

    source: str
    settings: Settings
    prompts: tuple[Prompt, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]  # (seeds, count)
    images: np.ndarray = field(repr=False)  # (count, S, S, 3) uint8, of the first seed; oblong ones on white
    seconds: dict[str, float]  # per image, in batches: the parts that ran of encoding, tokens, rendering, decoding

    @property
    def strict(self) -> dict[str, float]:
        """Share of images that are right, by category."""
        return self._score(lambda verdict: verdict.strict)

    @property
    def layout(self) -> dict[str, float]:
        """Share of images whose layout is right, whatever the shapes, by category."""
        return self._score(lambda verdict: verdict.layout)

    @property
    def mean(self) -> float:
        """Mean of `strict` over the categories."""
        return _mean(self.strict.values())

    @property
    def weakest(self) -> str:
        return min(self.strict, key=self.strict.get)

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of each sampling seed."""
        rows = ([verdict.strict for verdict in row] for row in self.verdicts)
        return tuple(_mean(self._by_category(row).values()) for row in rows)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the means over the sampling seeds. None for one seed."""
        return float(np.std(self.means, ddof=1)) if len(self.means) > 1 else None

    def failures(self, category: str | None = None) -> dict[str, float]:
        """Share of images with each kind of failure, the most frequent first. An image may have several kinds."""
        counts, total = Counter(), 0
        for row in self.verdicts:
            for prompt, verdict in zip(self.prompts, row, strict=True):
                if category in (None, prompt.category):
                    counts.update(list(dict.fromkeys(map(failure_kind, verdict.reasons))))  # each kind once
                    total += 1
        return {kind: count / total for kind, count in counts.most_common()}

    def _score(self, is_right: Callable[[Verdict], bool]) -> dict[str, float]:
        return self._by_category(np.mean([[is_right(verdict) for verdict in row] for row in self.verdicts], 0))

    def _by_category(self, values) -> dict[str, float]:
        """One value per prompt -> their mean in each category."""
        pairs = list(zip(self.prompts, values, strict=True))
        names = self.settings.world.categories
        return {name: _mean(value for prompt, value in pairs if prompt.category == name) for name in names}


def edition_of(checkpoint: Checkpoint) -> int:
    """Of the world that a checkpoint of the recipe was trained in: each has its own size of image."""
    return 2 if checkpoint.trained_side == SIDES[2] else 1


def make_prompts(settings: Settings, world: World | None = None) -> list[Prompt]:
    """The prompts that count, split, phrasing and contrast decide, whatever else the settings say.

    `world`: in place of that of the settings.
    """
    prompts, world = [], world or settings.world
    for index in range(settings.count):
        names = world.categories
        category = names[index % len(names)]
        scene = make_scene(SCENE_SEED, settings.split, index // len(names), world, category)
        prompts.append(Prompt(category, caption(scene, index, plain=not settings.any_phrasing), scene))
    return prompts


def square_prompts(checkpoint: Checkpoint, count: int | None = None) -> list[Prompt]:
    """Held-back prompts in the edition of a checkpoint, for square images alone: any of them may be made together.

    `count` None: one of each category.
    """
    settings = Settings(edition=edition_of(checkpoint))
    settings = replace(settings, count=count or len(settings.world.categories))
    return make_prompts(settings, replace(settings.world, oblong=0.0))


def evaluate(
    pipeline: Pipeline,
    settings: Settings = Settings(),
    source: str = CODES,
    progress: Callable[[int, int, object], None] | None = None,
) -> Result:
    """Make and judge an image for every prompt. `progress(done, total, None)` runs after each batch.

    For parts in training, `Pipeline.of` makes the pipeline. Nothing is random in the autoencoder, so it runs once.
    """
    check_choice("source", source, SOURCES)
    prompts, stopwatch = make_prompts(settings), Stopwatch(pipeline.device)
    runs = 1 if source == AUTOENCODER else settings.seeds
    verdicts, images = [], []
    for run in range(runs):
        row = []
        for first in range(0, settings.count, settings.batch):
            batch = prompts[first : first + settings.batch]
            seeds = row_seeds(run * SEED_STRIDE, len(batch), first)
            made, judged = judge_batch(pipeline, source, batch, seeds, settings, stopwatch)
            row += judged
            images += made if run == 0 else []
            if progress is not None:
                progress(run * settings.count + len(row), runs * settings.count, None)
        verdicts.append(tuple(row))
    seconds = {part: spent / (runs * settings.count) for part, spent in stopwatch.seconds.items()}
    return Result(source, settings, tuple(prompts), tuple(verdicts), _stacked(images), seconds)


def measure_speed(pipeline: Pipeline, settings: Settings, count: int = 5) -> dict[str, float]:
    """Seconds of each part for a single image: the median of `count` images, after one to warm up."""
    spent = []
    for index, prompt in enumerate(make_prompts(settings)[: count + 1]):
        stopwatch = Stopwatch(pipeline.device)
        make_images(pipeline, CODES, [prompt], [index], settings, stopwatch)
        spent.append(stopwatch.seconds)
    return {part: float(np.median([one[part] for one in spent[1:]])) for part in spent[0]}


class Stopwatch:
    """Seconds by part. Waits for the device at the end of each."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}

    @contextmanager
    def part(self, name: str):
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def judge_batch(
    pipeline: Pipeline, source: str, prompts: list[Prompt], seeds: list[int], settings: Settings, stopwatch: Stopwatch
) -> tuple[list[np.ndarray], list[Verdict]]:
    """Images of the prompts in their order, (H, W, 3) uint8, those of one shape made together, and their verdicts."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt.scene.canvas, []).append(row)
    images: dict[int, np.ndarray] = {}
    for own in rows.values():
        chosen = [prompts[row] for row in own], [seeds[row] for row in own]
        images |= dict(zip(own, make_images(pipeline, source, *chosen, settings, stopwatch), strict=True))
    made = [to_pixels(images[row]) for row in range(len(prompts))]
    return made, [judge_image(image, spec_of(prompt.scene)) for image, prompt in zip(made, prompts, strict=True)]


def _stacked(images: list[np.ndarray]) -> np.ndarray:
    """(N, H, W, 3): smaller images stand in the upper left corner of white."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    page = np.full((len(images), height, width, 3), 255, np.uint8)
    for row, image in zip(page, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return page


def make_images(
    pipeline: Pipeline, source: str, prompts: list[Prompt], seeds: list[int], settings: Settings, stopwatch: Stopwatch
) -> np.ndarray:
    """(B, H, W, 3) float32 in [0, 1]: images of prompts with one shape of image, from one of the sources."""
    texts, side = [prompt.text for prompt in prompts], pipeline.checkpoint.trained_side
    height, width = size_of(prompts[0].scene.canvas, side)
    if source == CODES:
        with stopwatch.part("tokens"):
            tokens = pipeline.generate_tokens(texts, seeds, settings.sampling)
    else:
        drawn = np.stack([rasterize(prompt.scene, side) for prompt in prompts])
        true = torch.from_numpy(drawn).to(pipeline.device) / 255
        with stopwatch.part("encoding"):
            if source == AUTOENCODER:
                latents = autoencoder.encode(pipeline.autoencoder, true) * pipeline.autoencoder.config.scaling_factor
            else:
                tokens = pipeline.tokens_of(true, texts)
    if source != AUTOENCODER:
        with stopwatch.part("rendering"):
            size = None if width == height else (width, height)
            latents = pipeline.latents(tokens, seeds, size, settings.steps, settings.guidance)
    with stopwatch.part("decoding"):
        images = pipeline.decode(latents)
    return images.cpu().numpy()


_FAILURES = {
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
    """The kind of failure that a verdict's reason describes. A missing object counts as too few objects."""
    number = re.match(r"^(no|\d+) objects? instead of (\d+)$", reason)
    if number:
        few = number[1] == "no" or int(number[1]) < int(number[2])
        return "too few objects" if few else "too many objects"
    if reason.endswith(" is missing"):
        return "too few objects"
    return next((kind for kind, pattern in _FAILURES.items() if re.search(pattern, reason)), OTHER)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
