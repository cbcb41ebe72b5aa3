"""Whole images through the library: seconds and peak memory of each part, one image and several."""

import torch

from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.models.autoencoder import decode as to_pixels
from blip3o_core.models.connector import connect

from ..bench import Bench


def run(bench: Bench) -> None:
    for images in bench.sizes.images:
        with bench.notes.attempt(f"{images} images"), torch.no_grad():
            _images(bench, images)


def _images(bench: Bench, images: int) -> None:
    model, vae, notes = bench.full, bench.autoencoder, bench.notes
    prompts, seeds = Prompts(bench.rows(1) * images), list(range(images))
    noise = diffusion.initial_noise((model.transformer.config.in_channels, model.cells, model.cells), seeds)
    schedule, guidance = diffusion.sigmas(bench.sizes.steps), diffusion.GuidanceSchedule(2.0)
    made: dict = {}

    def tokens() -> None:
        made["hidden"] = decode(model.language, prompts, seeds, Sampling()).hidden

    def connector() -> None:
        made["condition"] = diffusion.Conditioning(*connect(model.language.connector, made["hidden"]))

    def latents() -> None:
        made["latents"] = diffusion.sample(model.transformer, noise, made["condition"], schedule, guidance)

    def pixels() -> None:
        made["pixels"] = to_pixels(vae, made["latents"] / vae.config.scaling_factor)

    parts = {"tokens": tokens, "connector": connector, "diffusion": latents, "autoencoder": pixels}
    first = sum(bench.seconds(part) for part in parts.values())
    seconds = {f"{name}_s": bench.seconds(part) for name, part in parts.items()}
    peaks = {f"{name}_gb": bench.peak(part) for name, part in parts.items()}
    whole = sum(seconds.values())
    finite = bool(torch.isfinite(made["pixels"]).all())
    notes.row("images", images=images, first_s=first, whole_s=whole, **seconds, **peaks, finite=finite)
    taken = ", ".join(f"{name.removesuffix('_s')} {second:.2f}" for name, second in seconds.items())
    notes.say(f"{images} images: {whole:.2f} s; {taken}")
