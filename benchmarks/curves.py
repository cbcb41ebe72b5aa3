"""How the cost of image tokens grows with the prompt and the batch, and that of a diffusion step with the image's size.

Measured for the bundled model, and for the published shapes with few layers, so that a CPU can run them.
"""

import time
from pathlib import Path

import torch

from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling

from . import render
from .machine import measure, synchronize
from .models import Model, full, tiny

PROMPTS, BATCHES = (64, 128, 256, 512, 1024, 1900), (1, 2, 4, 8, 16, 32)
PIXELS = (512, 768, 1024, 1536, 2048)
LAYERS, TOKENS = 4, 12  # of the published shapes on a CPU


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """The bundled model in float32, the published shapes in bfloat16."""
    cut, cpu = (2 if quick else None), device.type == "cpu"
    rows = []
    models = [tiny(device, torch.float32)]
    if not quick:
        models.append(full(device, torch.bfloat16, layers=LAYERS if cpu else None))
    for model in models:
        if cpu and model.name != "tiny":
            model.language.grid = (1, TOKENS)
        few = runs if model.name == "tiny" or not cpu else 2
        rows += [_tokens(model, device, length, 1, few) for length in PROMPTS[:cut]]
        rows += [_tokens(model, device, PROMPTS[0], batch, few) for batch in BATCHES[1:cut]]
    rows += [_sizes(models[0], device, pixels // 8, pixels, 2) for pixels in PIXELS[:cut]]
    if not quick:
        large = full(device, torch.bfloat16, layers=1, render=True, render_layers=1 if cpu else None)
        rows += [_sizes(large, device, pixels // 32, pixels, 2) for pixels in PIXELS]
    return rows


def _tokens(model: Model, device: torch.device, length: int, batch: int, runs: int) -> dict:
    """Seconds for the prompts, and tokens per second after them: the first callback separates the two.

    On a GPU the graph's recording lies before it, too. One token a step, for how well the next ones are guessed depends
    on what a prompt says.
    """
    prompt = (model.prompt * (1 + length // len(model.prompt)))[:length]
    # Different last ids: drafts of one prompt would share its prefill.
    prompts, stamps = [[*prompt[:-1], k] for k in range(batch)], []
    engine = "direct" if device.type == "cpu" else "auto"

    def stamp(done: int, *_) -> None:
        if done == 1:
            synchronize(device)
            stamps.append(time.perf_counter())

    def work() -> None:
        stamps.append(time.perf_counter())
        decode(model.language, Prompts(prompts), list(range(batch)), Sampling(), callback=stamp, engine=engine)
        synchronize(device)
        stamps.append(time.perf_counter())

    measure(work, device, runs)
    began, read, ended = zip(*[stamps[k : k + 3] for k in range(3, len(stamps), 3)], strict=True)
    reading = min(b - a for a, b in zip(began, read, strict=True))
    writing = min(b - a for a, b in zip(read, ended, strict=True))
    written = batch * (model.language.num_tokens - 1)
    return {
        "curve": "tokens", "model": model.name, "prompt": length, "batch": batch, "prompt_s": reading,
        "tokens_per_s": written / writing,
    }  # fmt: skip


def _sizes(model: Model, device: torch.device, cells: int, pixels: int, runs: int) -> dict:
    channels, steps = model.transformer.config.in_channels, 2
    noise, hidden = torch.randn(1, channels, cells, cells), render.states(model, 1, device)
    seconds = min(measure(lambda: render.ours(model, hidden, noise, steps), device, runs)) / steps
    layers = model.transformer.config.num_layers
    return {"curve": "diffusion", "model": model.name, "pixels": pixels, "layers": layers, "step_s": seconds}


def plot(rows: list[dict], folder: Path) -> list[Path]:
    """Write one image for each curve into `folder`."""
    from matplotlib.figure import Figure

    figures = (
        ("prompt", "prompt, tokens", "tokens_per_s", "image tokens / s", {"curve": "tokens", "batch": 1}),
        ("batch", "images at once", "tokens_per_s", "image tokens / s", {"curve": "tokens", "prompt": PROMPTS[0]}),
        ("pixels", "pixels on a side", "step_s", "seconds a diffusion step", {"curve": "diffusion"}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for x, x_label, y, y_label, where in figures:
        chosen = [row for row in rows if all(row.get(name) == value for name, value in where.items())]
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
        for name in dict.fromkeys(row["model"] for row in chosen):
            points = [row for row in chosen if row["model"] == name]
            axes.plot([row[x] for row in points], [row[y] for row in points], marker="o", label=name)
        ticks = sorted({row[x] for row in chosen})
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
        paths.append(folder / f"speed_{x}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths
