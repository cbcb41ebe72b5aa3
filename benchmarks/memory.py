"""Bytes that each part takes, and the peak while it works (on a GPU, where the allocator counts)."""

import torch

from blip3o_core import diffusion
from blip3o_core.decoding import Sampling, decode

from . import render
from .models import Model


def run(model: Model, device: torch.device, steps: int = 2) -> list[dict]:
    hidden = render.states(model, 1, device)
    shape = (model.transformer.config.in_channels, model.cells, model.cells)
    noise = diffusion.initial_noise(shape, [0])
    parts = {
        "language model": (model.language, lambda: decode(model.language, [model.prompt], [0], Sampling())),
        "diffusion transformer": (model.transformer, lambda: render.ours(model, hidden, noise, steps)),
    }
    rows = []
    for name, (network, work) in parts.items():
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        row = {"model": model.name, "part": name, "weights_gb": weights / 1e9, "working_gb": None}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            work()
            row["working_gb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e9
        rows.append(row)
    return rows
