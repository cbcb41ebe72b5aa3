"""Tokens per second against the prompt's length and the batch; seconds a diffusion step against picture size."""

import torch

from blip3o_core.decoding import Sampling, decode

from . import render
from .machine import measure
from .models import Model, tiny

PROMPTS, BATCHES, CELLS = (64, 256, 512, 1024, 1900), (1, 2, 4, 8, 16, 32), (4, 8, 16, 32)


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """Of the bundled model, float32."""
    model = tiny(device, torch.float32)
    rows = [_tokens(model, device, length, 1, runs) for length in PROMPTS[: 2 if quick else None]]
    rows += [_tokens(model, device, 64, batch, runs) for batch in BATCHES[: 2 if quick else None]]
    return rows + [_sizes(model, device, cells, runs) for cells in CELLS[: 2 if quick else None]]


def _tokens(model: Model, device: torch.device, length: int, batch: int, runs: int) -> dict:
    prompt = (model.prompt * (1 + length // len(model.prompt)))[:length]
    # Different last ids: drafts of one prompt would share its prefill.
    prompts = [[*prompt[:-1], k] for k in range(batch)]
    seconds = min(measure(lambda: decode(model.language, prompts, list(range(batch)), Sampling()), device, runs))
    rate = batch * model.language.num_tokens / seconds
    return {"curve": "tokens/s", "prompt": length, "batch": batch, "seconds": seconds, "tokens_per_s": rate}


def _sizes(model: Model, device: torch.device, cells: int, runs: int) -> dict:
    noise, hidden = torch.randn(1, model.transformer.config.in_channels, cells, cells), render.states(model, 1, device)
    seconds = min(measure(lambda: render.ours(model, hidden, noise, 4), device, runs)) / 4
    return {"curve": "seconds a step", "pixels": 8 * cells, "seconds": seconds}
