"""Measures how well a model edits images of the tiny world, by kind of instruction and by reference mode.

Held-back edits, one image each, none selected. An edit is right when the target's objects are there and nothing else
changed (`judge.judge_edit`). `outside` is the error of the pixels that must not change.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..decoding.engine import decode
from ..decoding.prefill import Prompts
from ..decoding.sampling import Sampling
from ..diffusion import sampler as diffusion
from ..diffusion.reference_conditioning import ReferenceConditioning
from ..diffusion.reference_mode import ReferenceMode, Strengths
from ..errors import Blip3oError
from ..models import autoencoder, image_tokenizer
from ..pipeline import Pipeline, condition
from ..seeds import row_seeds
from ..tokens.image_tokens import ImageTokens
from .evaluation import GUIDANCE, STEPS
from .judge.judge import judge_edit
from .scenes.edits import EDIT_KINDS, Edit, instruction, make_edit
from .scenes.rasterize import rasterize
from .scenes.spec import Verdict
from .scenes.world import World, check_choice

EDIT_SEED = 71  # no stage of the training uses it
MODES = ("tokens", "cross", "noise", "both")  # of the references
_HIDDEN_SOURCE = "this call"  # the hidden states of the tokens are those of the same weights


@dataclass(frozen=True)
class Settings:
    count: int = 300  # edits, spread evenly over the kinds
    steps: int = STEPS
    guidance: float = GUIDANCE
    sampling: Sampling = field(default=Sampling())
    seed: int = 0
    batch: int = 50

    def __post_init__(self):
        if self.count < len(EDIT_KINDS):
            raise Blip3oError(f"count is {self.count}. Give at least {len(EDIT_KINDS)}, one edit of each kind.")
        if self.batch < 1:
            raise Blip3oError(f"batch is {self.batch}. It must be at least 1.")


@dataclass(frozen=True)
class Result:
    mode: str  # of the references: one of MODES
    settings: Settings
    edits: tuple[Edit, ...]
    verdicts: tuple[Verdict, ...]
    images: np.ndarray = field(repr=False)  # (count, S, S, 3) in [0, 1]

    @property
    def right(self) -> dict[str, float]:
        """Share of edits that are right, by kind, and their mean."""
        return self._by_kind(lambda verdict: verdict.strict)

    @property
    def objects(self) -> dict[str, float]:
        """Share of edits whose objects are those of the target, whatever else changed."""
        return self._by_kind(lambda verdict: verdict.layout)

    @property
    def outside(self) -> dict[str, float]:
        """Mean absolute error, of 255, of the pixels that must not change."""
        return self._by_kind(lambda verdict: verdict.outside)

    def _by_kind(self, value: Callable[[Verdict], float]) -> dict[str, float]:
        """The mean value of each kind of edit, and as "mean" the mean of those."""
        pairs = list(zip(self.edits, self.verdicts, strict=True))
        means = {kind: float(np.mean([value(v) for edit, v in pairs if edit.kind == kind])) for kind in EDIT_KINDS}
        return {**means, "mean": float(np.mean(list(means.values())))}


def make_edits(settings: Settings) -> list[tuple[Edit, str]]:
    """Edits with their instructions; edit k is of kind k % 6."""
    world, kinds = World(low_contrast=False), len(EDIT_KINDS)
    edits = [make_edit(EDIT_SEED, "held_back", k // kinds, world, EDIT_KINDS[k % kinds]) for k in range(settings.count)]
    return [(edit, instruction(edit, k)) for k, edit in enumerate(edits)]


@torch.no_grad()
def evaluate(
    pipeline: Pipeline, settings: Settings, mode: str, progress: Callable[[int, int, object], None] | None = None
) -> Result:
    """Make and judge an image for every edit. `progress(done, total, None)` runs after each batch.

    Raises Blip3oError for a reference mode that the checkpoint does not support.
    """
    check_choice("reference mode", mode, MODES)
    _, reference_mode = pipeline.reference_mode.select(mode, Strengths(), str(pipeline.checkpoint.folder))
    pairs, images = make_edits(settings), []
    for first in range(0, len(pairs), settings.batch):
        batch = pairs[first : first + settings.batch]
        seeds = row_seeds(settings.seed, len(batch), first)
        images += list(run_edits(pipeline, batch, seeds, settings, reference_mode).numpy())
        if progress is not None:
            progress(first + len(batch), len(pairs), None)
    edits = tuple(edit for edit, _ in pairs)
    verdicts = tuple(judge_edit(image, edit) for image, edit in zip(images, edits, strict=True))
    return Result(mode, settings, edits, verdicts, np.stack(images))


def run_edits(
    pipeline: Pipeline, pairs: list[tuple[Edit, str]], seeds: list[int], settings: Settings, mode: ReferenceMode
) -> torch.Tensor:
    """(B, S, S, 3) edited images, each from its own reference; `Pipeline.generate_tokens` has one for the batch."""
    checkpoint, language, device = pipeline.checkpoint, pipeline.language, pipeline.device
    texts = [text for _, text in pairs]
    sources = np.stack([rasterize(edit.source, checkpoint.trained_side) for edit, _ in pairs])
    sources = torch.from_numpy(sources) / 255
    codes, _ = image_tokenizer.encode_images(pipeline.image_tokenizer, sources)
    latents = autoencoder.encode(pipeline.autoencoder, sources.to(device)) * pipeline.autoencoder.config.scaling_factor

    prompts = [pipeline.encoder.encode_edit(text, own[None]) for text, own in zip(texts, codes, strict=True)]
    decoded = decode(language, Prompts(prompts), seeds, settings.sampling)
    tokens = ImageTokens(
        codes=(decoded.ids - language.vocabulary.image_start).cpu(),
        grid=language.grid,
        prompts=texts,
        prompt_ids=prompts,
        seeds=seeds,
        lengths=decoded.lengths,
        codes_id=language.codes_id,
        hidden=decoded.hidden.cpu(),
        hidden_source=_HIDDEN_SOURCE,
    )

    conditioning = condition(language, tokens, _HIDDEN_SOURCE)
    references = ReferenceConditioning([latents.float()], mode, connector=language.reference_connector)
    edited = diffusion.sample(
        pipeline.transformer,
        diffusion.initial_noise(tuple(latents.shape[1:]), seeds),
        replace(conditioning, references=references),
        diffusion.sigmas(settings.steps, checkpoint.shift),
        diffusion.GuidanceSchedule(settings.guidance),
    )
    return pipeline.decode(edited).cpu()
