"""Bytes of each part and of the work it does: counted from shapes, and measured where an allocator counts.

- `weights_gb`, `int8_gb`, `fp8_gb`: the weights in the model's dtype, and the language model's quantised.
- `cache_gb`: keys and values of one image, prompt included. `estimate_gb`: what the nodes ask ComfyUI to keep free
  in addition to the weights for one image, with guidance in the diffusion transformer.
- `whole_gb`: least free memory with which ComfyUI loads all of the part, before what it keeps for others.
- `working_gb`: measured peak beside the weights: on a GPU, and for the tiny model on a CPU. None: not measured. It is
  the library's sampler that is measured, which keeps what it made of the condition, as ComfyUI's does not.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from blip3o_core import memory
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.models.autoencoder import compression
from blip3o_core.models.language import KVCache

from . import models, render
from .models import Model

# ComfyUI 0.30 on Linux (comfy/model_management.py, `minimum_inference_memory`, `EXTRA_RESERVED_VRAM`).
LEAST, RESERVED = int(0.8 * 2**30), 400 * 2**20
LANGUAGE, TRANSFORMER, AUTOENCODER = "language model", "diffusion transformer", "autoencoder"


def run(model: Model, device: torch.device, steps: int = 2) -> list[dict]:
    """Count and measure a model in memory."""
    autoencoder = models.autoencoder(model, device)
    dtype = model.language.connector[0].weight.dtype
    rows = count(model.name, model.language, model.transformer, autoencoder, model.cells, len(model.prompt), dtype)
    hidden = render.states(model, 1, device)
    noise = diffusion.initial_noise((model.transformer.config.in_channels, model.cells, model.cells), [0])
    work = {
        LANGUAGE: lambda: decode(model.language, Prompts([model.prompt]), [0], Sampling()),
        TRANSFORMER: lambda: render.ours(model, hidden, noise, steps),
        AUTOENCODER: lambda: autoencoder.decode(noise.to(device, autoencoder.dtype)),
    }
    for row in rows:
        if device.type == "cuda" or model.name == "tiny":
            with torch.inference_mode():
                row["working_gb"] = measured(work[row["part"]], device) / 1e9
    return rows


def published(dtype: torch.dtype = torch.bfloat16, prompt: int = 60) -> list[dict]:
    """Count the published shapes, on the meta device. Nothing is measured."""
    language, transformer = models.shapes(None, render=True)
    return count("published shapes", language, transformer, models.published_autoencoder(), 32, prompt, dtype)


def count(name: str, language, transformer, autoencoder, cells: int, prompt: int, dtype: torch.dtype) -> list[dict]:
    """`cells`: side of a latent. `prompt`: number of its tokens."""
    length = prompt + language.num_tokens
    pixels = (cells * compression(autoencoder.config)) ** 2
    small = {
        f"{kind}_gb": memory.quantised_weight_bytes(language, dtype, kind == "int8") / 1e9 for kind in ("int8", "fp8")
    }
    drawing = memory.lm_decode_bytes(language.config, 1, length, language.vocabulary.num_codes, dtype)
    cache = KVCache.nbytes(language.config, 1, length, dtype) / 1e9
    parts = [
        (LANGUAGE, language, drawing, {**small, "cache_gb": cache}),
        (TRANSFORMER, transformer, memory.diffusion_bytes(transformer.config, 2, cells**2, dtype), {}),
        (AUTOENCODER, autoencoder, memory.vae_bytes(autoencoder.config, pixels, dtype), {}),
    ]
    rows = []
    for part, network, estimate, more in parts:
        weights = memory.weight_bytes(network, dtype)
        rows.append({
            "model": name, "dtype": str(dtype).removeprefix("torch."), "part": part, "weights_gb": weights / 1e9,
            "int8_gb": None, "fp8_gb": None, "cache_gb": None, **more, "estimate_gb": estimate / 1e9,
            "whole_gb": (weights + max(estimate + RESERVED, LEAST + RESERVED)) / 1e9, "working_gb": None,
        })  # fmt: skip
    return rows


def measured(work: Callable[[], object], device: torch.device) -> int:
    """Peak bytes that `work` uses in addition to what was in use before."""
    if device.type != "cuda":
        return _on_cpu(work)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(work: Callable[[], object]) -> int:
    """By torch's profiler, which sees every tensor, but not the scratch memory of the libraries it calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        seen.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    peak = total = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak
