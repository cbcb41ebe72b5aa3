"""How well a model edits pictures of the tiny world, by kind of instruction, and what each way of a reference adds.

Held-back triples of picture, instruction and target, one edit each, no choosing. Right means that the target's objects
are there and that nothing else changed (`judge.judge_edit`); `outside` is the error of the pixels that may not change.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ..decoding.engine import decode as write
from ..decoding.sampling import Sampling
from ..diffusion import sampler as diffusion
from ..diffusion.reference_mode import REFERENCE_MODES, ReferenceMode, Strengths
from ..errors import Blip3oError
from ..models import autoencoder, image_tokenizer
from ..pipeline import Pipeline, condition
from ..seeds import row_seeds
from ..tokens import ImageTokens
from .evaluation import GUIDANCE, STEPS
from .judge.judge import judge_edit
from .scenes.edits import EDIT_KINDS, Edit, instruction, make_edit
from .scenes.rasterize import rasterize
from .scenes.spec import Verdict
from .scenes.world import World

TRIPLES = 71  # seed of the edits: none that a stage of the training looks at
# What a reference goes by besides as tokens: the names in REFERENCE_MODES.
WAYS = {"tokens": "tokens", "+ cross-attention": "cross", "+ noise": "noise", "+ both": "both"}


def ways_of(mode: ReferenceMode) -> list[str]:
    """The names in WAYS that a checkpoint with `mode` can go."""
    ways = {title: REFERENCE_MODES[name] for title, name in WAYS.items()}
    return [title for title, way in ways.items() if way.cross <= mode.cross and way.noise <= mode.noise]


@dataclass(frozen=True)
class Settings:
    count: int = 300  # triples, spread evenly over the kinds
    steps: int = STEPS
    guidance: float = GUIDANCE
    sampling: Sampling = field(default=Sampling())
    seed: int = 0
    batch: int = 50

    def __post_init__(self):
        if self.count < len(EDIT_KINDS) or self.batch < 1:
            raise Blip3oError(
                f"count is {self.count}, batch {self.batch}; give at least {len(EDIT_KINDS)} triples and a batch of 1."
            )


@dataclass(frozen=True)
class Result:
    way: str
    settings: Settings
    edits: tuple[Edit, ...]
    verdicts: tuple[Verdict, ...]
    pictures: np.ndarray = field(repr=False)  # (count, S, S, 3) in [0, 1]

    def share(self, right: Callable[[Verdict], float]) -> dict[str, float]:
        """Kind -> mean of `right`, and the mean over kinds."""
        pairs = list(zip(self.edits, self.verdicts, strict=True))
        found = {kind: float(np.mean([right(v) for edit, v in pairs if edit.kind == kind])) for kind in EDIT_KINDS}
        return {**found, "mean": float(np.mean(list(found.values())))}

    @property
    def right(self) -> dict[str, float]:
        return self.share(lambda verdict: verdict.strict)

    @property
    def objects(self) -> dict[str, float]:
        """The target's objects alone, whatever else changed."""
        return self.share(lambda verdict: verdict.layout)

    @property
    def outside(self) -> dict[str, float]:
        """Mean absolute error, of 255, where nothing may change."""
        return self.share(lambda verdict: verdict.outside)


def triples(settings: Settings) -> list[tuple[Edit, str]]:
    """Edit k is of kind k % 6; with its instruction."""
    world = World(low_contrast=False)
    edits = [
        make_edit(TRIPLES, "held_back", k // len(EDIT_KINDS), world, EDIT_KINDS[k % len(EDIT_KINDS)])
        for k in range(settings.count)
    ]
    return [(edit, instruction(edit, k)) for k, edit in enumerate(edits)]


@torch.no_grad()
def evaluate(pipeline: Pipeline, settings: Settings, way: str, callback=None) -> Result:
    """Raises Blip3oError for a way that the checkpoint lacks. `callback(done, count, None)` runs after each batch."""
    _, mode = pipeline.reference_mode.select(WAYS[way], Strengths(), str(pipeline.checkpoint.folder))
    pairs, pictures = triples(settings), []
    for first in range(0, len(pairs), settings.batch):
        part = pairs[first : first + settings.batch]
        seeds = row_seeds(settings.seed, len(part), first)
        pictures.append(_edit(pipeline, part, seeds, settings, mode).numpy())
        if callback is not None:
            callback(first + len(part), len(pairs), None)
    drawn, edits = np.concatenate(pictures), tuple(edit for edit, _ in pairs)
    verdicts = tuple(judge_edit(picture, edit) for picture, edit in zip(drawn, edits, strict=True))
    return Result(way, settings, edits, verdicts, drawn)


def _edit(pipeline: Pipeline, pairs, seeds: list[int], settings: Settings, mode: ReferenceMode) -> torch.Tensor:
    """Each edit has a reference of its own, which `Pipeline.generate_tokens` does not batch."""
    checkpoint, language, device = pipeline.checkpoint, pipeline.language, pipeline.device
    side = checkpoint.trained_side
    shown = torch.from_numpy(np.stack([rasterize(edit.source, side) for edit, _ in pairs])) / 255
    codes, _ = image_tokenizer.encode_images(pipeline.image_tokenizer, shown)
    scaled = autoencoder.encode(pipeline.autoencoder, shown.to(device)) * pipeline.autoencoder.config.scaling_factor
    texts = [text for _, text in pairs]
    rows = [pipeline.encoder.encode_edit(text, own[None]) for text, own in zip(texts, codes, strict=True)]
    drawn = write(language, rows, seeds, settings.sampling)
    tokens = ImageTokens(
        (drawn.ids - language.vocabulary.image_start).cpu(),
        language.grid,
        texts,
        rows,
        seeds,
        drawn.lengths,
        language.codes_id,
        drawn.hidden.cpu(),
        "just drawn",
    )
    given = condition(language, tokens, "just drawn")
    conditioning = diffusion.ReferenceConditioning([scaled.float()], mode, connector=language.reference_connector)
    noise = diffusion.initial_noise(tuple(scaled.shape[1:]), seeds)
    schedule = diffusion.sigmas(settings.steps, checkpoint.shift)
    made = diffusion.sample(
        pipeline.transformer,
        noise,
        given.positive,
        given.negative,
        schedule,
        settings.guidance,
        references=conditioning,
    )
    return pipeline.decode(made).cpu()


def table(results: list[Result]) -> str:
    """Shares of right edits in %, and errors outside of 255, a pair of columns for each way."""
    settings, width = results[0].settings, 24
    lines = [
        f"{settings.count} held-back triples, top-k {settings.sampling.top_k}, top-p {settings.sampling.top_p:g}, "
        f"{settings.steps} steps, guidance {settings.guidance:g}",
        "",
        f"{'reference as':16}" + "".join(f"{result.way:>{width}}" for result in results),
        f"{'':16}" + f"{'% right   outside':>{width}}" * len(results),
    ]
    for kind in (*EDIT_KINDS, "mean"):
        cells = (f"{100 * result.right[kind]:.1f}   {result.outside[kind]:7.2f}" for result in results)
        lines.append(f"{kind:16}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def to_json(results: list[Result]) -> dict:
    settings = results[0].settings
    return {
        "triples": settings.count,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "seed": settings.seed,
        "ways": {r.way: {"right": r.right, "objects": r.objects, "outside": r.outside} for r in results},
    }
