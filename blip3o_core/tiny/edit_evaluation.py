"""Measures how well a model edits images of the tiny world, by kind of instruction and by reference mode.

Held-back edits, one image each, none selected. An edit is right when the target's objects are there and nothing else
changed (`judge.judge_edit`). `outside` is the error of the pixels that must not change.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image

from ..decoding.engine import decode
from ..decoding.prefill import Prompts
from ..decoding.sampling import Sampling
from ..diffusion import sampler as diffusion
from ..diffusion.reference_conditioning import ReferenceConditioning
from ..diffusion.reference_mode import ReferenceMode, Strengths
from ..errors import Blip3oError
from ..images.preprocess import tokenizer_input
from ..models import autoencoder, image_tokenizer
from ..pipeline import Pipeline, condition
from ..seeds import row_seeds
from ..tokens.image_tokens import ImageTokens
from .evaluation import GUIDANCE, STEPS
from .judge.judge import judge_edit
from .scenes.edits import Edit, edit_kinds, instruction, make_edit
from .scenes.rasterize import rasterize
from .scenes.spec import Verdict
from .scenes.world import SECOND, World, check_choice

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
    edition: int = 1  # of the world

    @property
    def world(self) -> World:
        return replace(SECOND if self.edition == 2 else World(), low_contrast=False)

    @property
    def kinds(self) -> tuple[str, ...]:
        return edit_kinds(self.world)

    def __post_init__(self):
        if self.count < len(self.kinds):
            raise Blip3oError(f"count is {self.count}. Give at least {len(self.kinds)}, one edit of each kind.")
        if self.batch < 1:
            raise Blip3oError(f"batch is {self.batch}. It must be at least 1.")


@dataclass(frozen=True)
class Result:
    mode: str  # of the references: one of MODES
    settings: Settings
    edits: tuple[Edit, ...]
    verdicts: tuple[Verdict, ...]
    images: list[np.ndarray] = field(repr=False)  # (H, W, 3) in [0, 1], one of each edit

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

    @property
    def surfaces(self) -> float | None:
        """The same of the pixels with a texture that must not change; None without any."""
        found = [verdict.surfaces for verdict in self.verdicts if verdict.surfaces is not None]
        return float(np.mean(found)) if found else None

    def _by_kind(self, value: Callable[[Verdict], float]) -> dict[str, float]:
        """The mean value of each kind of edit, and as "mean" the mean of those."""
        pairs = list(zip(self.edits, self.verdicts, strict=True))
        means = {
            kind: float(np.mean([value(v) for edit, v in pairs if edit.kind == kind])) for kind in self.settings.kinds
        }
        return {**means, "mean": float(np.mean(list(means.values())))}


def make_edits(settings: Settings) -> list[tuple[Edit, str]]:
    """Edits with their instructions; edit k is of kind k % 6, in the second edition k % 7."""
    kinds, world = settings.kinds, settings.world
    edits = [
        make_edit(EDIT_SEED, "held_back", k // len(kinds), world, kinds[k % len(kinds)]) for k in range(settings.count)
    ]
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
    pairs, images, verdicts = make_edits(settings), [], []
    for first in range(0, len(pairs), settings.batch):
        batch = pairs[first : first + settings.batch]
        seeds = row_seeds(settings.seed, len(batch), first)
        made, judged = judge_batch(pipeline, batch, seeds, settings, reference_mode)
        images += made
        verdicts += judged
        if progress is not None:
            progress(first + len(batch), len(pairs), None)
    return Result(mode, settings, tuple(edit for edit, _ in pairs), tuple(verdicts), images)


@torch.no_grad()
def judge_batch(
    pipeline: Pipeline, pairs: list[tuple[Edit, str]], seeds: list[int], settings: Settings, mode: ReferenceMode
) -> tuple[list[np.ndarray], list[Verdict]]:
    """Edited images in the order of the edits, (H, W, 3) in [0, 1], and their verdicts.

    Those of one shape and number of references are made together.
    """
    rows: dict[tuple, list[int]] = {}
    for row, (edit, _) in enumerate(pairs):
        rows.setdefault((edit.target.canvas, len(edit.sources)), []).append(row)
    images: dict[int, np.ndarray] = {}
    for own in rows.values():
        made = run_edits(pipeline, [pairs[row] for row in own], [seeds[row] for row in own], settings, mode)
        images |= dict(zip(own, made.numpy(), strict=True))
    ordered = [images[row] for row in range(len(pairs))]
    return ordered, [judge_edit(image, edit) for image, (edit, _) in zip(ordered, pairs, strict=True)]


def _codes(pipeline: Pipeline, images: list[np.ndarray]) -> torch.Tensor:
    """(B, T) codes of images of any shape, stretched to the square as everywhere."""
    side = pipeline.image_tokenizer.image_size
    square = [tokenizer_input(Image.fromarray(image), "stretch", side) for image in images]
    return image_tokenizer.encode_images(pipeline.image_tokenizer, torch.cat(square))[0]


def run_edits(
    pipeline: Pipeline, pairs: list[tuple[Edit, str]], seeds: list[int], settings: Settings, mode: ReferenceMode
) -> torch.Tensor:
    """(B, H, W, 3) edited images, each from its own references; `Pipeline.generate_tokens` has some for the batch.

    The edits have one shape of image and one number of references.
    """
    checkpoint, language, device = pipeline.checkpoint, pipeline.language, pipeline.device
    texts = [text for _, text in pairs]
    codes, latents = [], []  # of the first references, then of the second ones
    for scenes in zip(*(edit.sources for edit, _ in pairs), strict=True):
        drawn = [rasterize(scene, checkpoint.trained_side) for scene in scenes]
        codes.append(_codes(pipeline, drawn))
        images = torch.from_numpy(np.stack(drawn)).to(device) / 255
        latents.append(autoencoder.encode(pipeline.autoencoder, images) * pipeline.autoencoder.config.scaling_factor)

    own_codes = torch.stack(codes, 1)  # (B, R, T)
    prompts = [pipeline.encoder.encode_edit(text, own) for text, own in zip(texts, own_codes, strict=True)]
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
    given = [one.float() for one in latents]
    references = ReferenceConditioning(given, mode, connector=language.reference_connector)
    edited = diffusion.sample(
        pipeline.transformer,
        diffusion.initial_noise(tuple(latents[0].shape[1:]), seeds),
        replace(conditioning, references=references),
        diffusion.sigmas(settings.steps, checkpoint.shift),
        diffusion.GuidanceSchedule(settings.guidance),
    )
    return pipeline.decode(edited).cpu()
