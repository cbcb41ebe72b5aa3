"""A whole image: tokens, conditioning, diffusion and decoding, together and one by one."""

import torch

from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.models.autoencoder import decode as to_pixels
from blip3o_core.models.connector import connect

from . import render
from .machine import in_turn, measure
from .models import Model, authors_language, autoencoder


@torch.no_grad()
def run(model: Model, device: torch.device, steps: int, batch: int, runs: int) -> dict:
    vae = autoencoder(model, device)
    prompts, seeds = [model.prompt] * batch, list(range(batch))
    noise = diffusion.initial_noise((model.transformer.config.in_channels, model.cells, model.cells), seeds)
    theirs, ids = authors_language(model.language), torch.tensor(prompts, device=device)
    total, factor = model.language.num_tokens, vae.config.scaling_factor

    def ours() -> torch.Tensor:
        hidden = decode(model.language, Prompts(prompts), seeds, Sampling()).hidden
        return to_pixels(vae, render.ours(model, hidden, noise, steps) / factor)

    def authors() -> torch.Tensor:
        written = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=total, do_sample=True, top_p=0.95, top_k=1200,
            temperature=1.0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        hidden = theirs.model(written, output_hidden_states=True).hidden_states[-1][:, -1 - total :]
        return vae.decode(render.authors(model, hidden, noise, steps) / factor).sample

    found = in_turn(ours, authors, device, runs)
    hidden = decode(model.language, Prompts(prompts), seeds, Sampling()).hidden
    conditioning = diffusion.Conditioning(*connect(model.language.connector, hidden))
    schedule, guidance = diffusion.sigmas(steps), diffusion.GuidanceSchedule(2.0)
    latents = diffusion.sample(model.transformer, noise, conditioning, schedule, guidance)
    stages = {
        "tokens": lambda: decode(model.language, Prompts(prompts), seeds, Sampling()),
        "connector": lambda: connect(model.language.connector, hidden),
        "diffusion": lambda: diffusion.sample(model.transformer, noise, conditioning, schedule, guidance),
        "autoencoder": lambda: to_pixels(vae, latents / factor),
    }
    split = {f"{name}_s": min(measure(work, device, runs)) for name, work in stages.items()}
    dtype = str(model.transformer.dtype).removeprefix("torch.")
    return {"model": model.name, "dtype": dtype, "batch": batch, "steps": steps, **found, **split}
