"""Text to image: every recorded tensor of a case against ours.

Single prompts go our default way (one pass, states kept while decoding); a batch goes both ways: the authors'
unmasked result behind its switch, and row by row equal to our own single runs.
"""

from pathlib import Path

import torch

from blip3o_core.compat import condition_unmasked
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.models import autoencoder
from blip3o_core.pipeline import Pipeline, condition
from blip3o_core.tokens.image_tokens import ImageTokens

from .inference import (
    CPU,
    compare_connector,
    compare_diffusion,
    compare_second_pass,
    compare_tokens,
    open_pipeline,
    write_tokens,
)
from .report import Report


def run(case: str, golden: dict, recorded: dict[str, torch.Tensor], folder: Path, device: torch.device = CPU) -> Report:
    pipeline, report = open_pipeline(golden, folder, device), Report(case)
    tokens = write_tokens(pipeline, golden, golden["prompts"])
    batch = len(tokens)
    compare_tokens(report, pipeline, tokens, recorded)
    reference = batch > 1
    conditioning = (
        condition_unmasked(pipeline.language, tokens)
        if reference
        else condition(pipeline.language, tokens, pipeline.source)
    )
    if not reference:
        report.close("hidden states, one pass", tokens.hidden, recorded["connector_in"][batch:])
    compare_second_pass(report, pipeline, tokens, recorded)
    compare_connector(report, conditioning, recorded)

    def sample(callback) -> torch.Tensor:
        schedule = diffusion.sigmas(golden["steps"], pipeline.checkpoint.shift)
        guidance = diffusion.GuidanceSchedule(golden["guidance_scale"])
        return diffusion.sample(
            pipeline.transformer, recorded["noise"], conditioning, schedule, guidance, callback=callback
        )

    compare_diffusion(report, pipeline, sample, golden, recorded)
    if reference:
        _compare_single_runs(report, pipeline, tokens, golden, recorded["noise"])
    return report


def _compare_single_runs(report: Report, pipeline: Pipeline, tokens: ImageTokens, golden: dict, noise) -> None:
    """Our default for a batch: row k is the single run, whatever its neighbours are."""
    together = condition(pipeline.language, tokens, pipeline.source)
    for k, prompt in enumerate(golden["prompts"]):
        alone = write_tokens(pipeline, golden, [prompt])
        count = alone.lengths[0]
        report.exact("rows = single runs, ids", tokens.codes[k : k + 1, :count], alone.codes)
        report.close("rows = single runs, hidden", tokens.hidden[k : k + 1, : 1 + count], alone.hidden)
        single = condition(pipeline.language, alone, pipeline.source)
        schedule = diffusion.sigmas(golden["steps"], pipeline.checkpoint.shift)
        guidance = diffusion.GuidanceSchedule(golden["guidance_scale"])
        images = []
        for which, row in ((together, slice(k, k + 1)), (single, slice(None))):
            mask = None if which.mask is None else which.mask[row]
            conditioning = diffusion.Conditioning(which.positive[row], which.negative[row], mask)
            latents = diffusion.sample(pipeline.transformer, noise[k : k + 1], conditioning, schedule, guidance)
            images.append(
                autoencoder.decode(pipeline.autoencoder, latents / pipeline.autoencoder.config.scaling_factor)
            )
        report.image("rows = single runs, image", *images)
