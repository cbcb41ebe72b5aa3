"""Making the images of a run: from texts in batches, from references one at a time, each file whole or not at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..checks import require_finite
from ..decoding.sampling import Sampling
from ..diffusion.reference_mode import ReferenceMode, Strengths
from ..diffusion.sampler import GuidanceSchedule
from ..editing.references import EditInputs
from ..errors import Blip3oError, first_line, is_out_of_memory, shown
from ..files import naming_failures
from ..images.png import is_made_with, save_png
from ..images.reader import read_image
from ..pipeline import Pipeline
from ..rewards.best_of import render_each
from .plan import Row
from .run_folder import RunFolder, write_failure

SettingsOf = Callable[[Row, int], dict]  # (an image, the rows of its batch) -> what is stored in its file


@dataclass(frozen=True)
class Sampler:
    """How images are made, the same for all of a run."""

    sampling: Sampling = Sampling()
    negative: str | None = None  # None: tokens are not guided
    # (width, height) in pixels; None: the item's, without one the model's, for an edit its reference's
    size: tuple[int, int] | None = None
    steps: int = 30
    guidance: GuidanceSchedule = GuidanceSchedule(2.0)
    fit: str = "stretch"
    strengths: Strengths = Strengths()
    mode: ReferenceMode | None = None  # None: everything that the checkpoint supports


def is_done(folder: RunFolder, batch: Sequence[Row], settings_of: SettingsOf) -> bool:
    """Whether all images of a batch are there, undamaged and made with these settings."""
    return all(
        is_made_with(folder.image(row), settings_of(row, len(batch)), ("checkpoint", "command")) for row in batch
    )


def make(pipeline: Pipeline, sampler: Sampler, batch: Sequence[Row]) -> list[torch.Tensor | Exception]:
    """An image (H, W, 3) for each row, on the CPU, or what kept it from being made: too little memory, NaN, bad input.

    A batch is rows without references and of one size, or one row with.
    """
    try:
        images = _edit(pipeline, sampler, batch[0]) if batch[0].item.references else _texts(pipeline, sampler, batch)
    except (Blip3oError, MemoryError, RuntimeError) as error:
        if not isinstance(error, Blip3oError) and not is_out_of_memory(error):
            raise
        if pipeline.device.type == "cuda":
            torch.cuda.empty_cache()
        return [error] * len(batch)
    return [_checked(image) for image in images]


def save(folder: RunFolder, batch: Sequence[Row], made: Sequence[torch.Tensor | Exception], settings_of: SettingsOf):
    """Write the images of a batch, and why others could not be made."""
    for row, image in zip(batch, made, strict=True):
        if isinstance(image, Exception):
            write_failure(folder, row, image, shown(first_line(image), 600))
            continue
        path = folder.image(row)
        with naming_failures(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, image, settings_of(row, len(batch)))
        folder.failure(row).unlink(missing_ok=True)


def _texts(pipeline: Pipeline, sampler: Sampler, batch: Sequence[Row]) -> list[torch.Tensor]:
    seeds = [row.seed for row in batch]
    tokens = pipeline.generate_tokens(
        [row.item.prompt for row in batch], seeds, sampler.sampling, negative_prompt=sampler.negative
    )
    return render_each(
        pipeline, tokens, seeds, len(batch), size=sampler.size or batch[0].item.size, steps=sampler.steps,
        guidance=sampler.guidance,
    )  # fmt: skip


def _edit(pipeline: Pipeline, sampler: Sampler, row: Row) -> list[torch.Tensor]:
    images = [read_image(reference.read(), reference.name).on_white() for reference in row.item.references]
    references = pipeline.references(images, sampler.fit)
    tokens = pipeline.generate_tokens(
        [row.item.prompt], [row.seed], sampler.sampling, references=references, negative_prompt=sampler.negative
    )
    inputs = EditInputs(references, sampler.strengths, sampler.mode)
    return render_each(
        pipeline, tokens, [row.seed], size=sampler.size, steps=sampler.steps, guidance=sampler.guidance, edit=inputs
    )


def _checked(image: torch.Tensor) -> torch.Tensor | Exception:
    try:
        require_finite(image, "The image", "The model failed on this prompt and seed: use it in fp32.")
    except Blip3oError as error:
        return error
    return image
