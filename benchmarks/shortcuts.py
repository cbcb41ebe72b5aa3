"""Fewer diffusion steps, and guidance in a part of them: what they save and what they cost, of the bundled model.

Every way renders the same tokens with the same noise, by turns. `near`: mean difference of a pixel to the first way, of
255; `far_percent`: pixels off by more than 32 in some channel. "other noise" says how much of that is any rendering's.
"""

import statistics

import numpy as np
import torch

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.pipeline import Pipeline
from blip3o_core.seeds import row_seeds
from blip3o_core.tiny import evaluation
from blip3o_core.tiny.judge.judge import judge_image, to_pixels
from blip3o_core.tiny.scenes.spec import spec_of

from .machine import timed

COUNT, BATCH, ALONE, FAR = 400, 50, 12, 32
# Name, steps, guidance, its interval, added to the noise seed.
WAYS = (
    ("all", 20, 2.0, (0.0, 1.0), 0), ("8 steps", 8, 2.0, (0.0, 1.0), 0), ("4 steps", 4, 2.0, (0.0, 1.0), 0),
    ("2 steps", 2, 2.0, (0.0, 1.0), 0), ("1 step", 1, 2.0, (0.0, 1.0), 0), ("other noise", 20, 2.0, (0.0, 1.0), 10**6),
    ("guided 0-0.5", 20, 2.0, (0.0, 0.5), 0), ("guided 0.2-0.8", 20, 2.0, (0.2, 0.8), 0),
    ("guided 0.5-1", 20, 2.0, (0.5, 1.0), 0), ("not guided", 20, 1.0, (0.0, 1.0), 0),
)  # fmt: skip


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """In float32. Seconds are of the diffusion: of a picture alone, and of one in a batch."""
    pipeline = Pipeline.load(BUNDLED, device, torch.float32)
    count, batch = (16, 8) if quick else (COUNT, BATCH)
    prompts = evaluation.make_prompts(evaluation.Settings(count=count, seeds=1))
    right, near, far = ({name: [] for name, *_ in WAYS} for _ in range(3))
    alone, together = ({name: [] for name, *_ in WAYS} for _ in range(2))
    for first in range(0, count, batch):
        part, seeds = prompts[first : first + batch], row_seeds(0, batch, first)
        tokens = pipeline.generate_tokens([prompt.text for prompt in part], seeds)
        base = None
        for name, *way in WAYS:
            seconds, latents = _latents(pipeline, device, tokens, seeds, *way)
            together[name].append(seconds / len(part))
            pictures = [to_pixels(each) for each in pipeline.decode(latents).cpu().numpy()]
            base = base or pictures
            right[name] += [judge_image(p, spec_of(one.scene)).strict for p, one in zip(pictures, part, strict=True)]
            apart = np.abs(np.stack(pictures).astype(int) - np.stack(base).astype(int))
            near[name].append(apart.mean())
            far[name].append(100 * (apart.max(-1) > FAR).mean())
    for row in range(2 if quick else ALONE):
        one = tokens.row(row)
        for name, *way in WAYS:
            alone[name].append(_latents(pipeline, device, one, [row], *way)[0])
    return [
        {
            "way": name, "right": sum(right[name]), "of": count, "near": statistics.mean(near[name]),
            "far_percent": statistics.mean(far[name]), "alone_s": statistics.median(alone[name]),
            "alone_share": _share(alone, name), "batch_s": statistics.median(together[name]),
            "batch_share": _share(together, name),
        }
        for name, *_ in WAYS
    ]  # fmt: skip


def _latents(pipeline, device, tokens, seeds, steps: int, guidance: float, interval, added: int):
    """(seconds, latents)."""
    made = []
    noise = [seed + added for seed in seeds]
    work = lambda: made.append(pipeline.latents(tokens, noise, None, steps, guidance, interval=interval))  # noqa: E731
    return timed(work, device), made[0]


def _share(seconds: dict[str, list[float]], name: str) -> float:
    """Of the first way's time, the median over turns."""
    return statistics.median(one / whole for one, whole in zip(seconds[name], seconds[WAYS[0][0]], strict=True))
