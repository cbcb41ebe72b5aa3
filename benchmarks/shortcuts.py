"""Fewer diffusion steps, and guidance in only some of them: what they save and what they cost, with the bundled model.

Every variant renders the same tokens with the same noise, in turn. `near`: mean difference of a pixel to the first
variant, of 255. `far_percent`: pixels that differ by more than 32 in a channel. "other noise" shows how large these
are between any two renderings.
"""

import statistics
from typing import NamedTuple

import numpy as np
import torch

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.diffusion.sampler import GuidanceSchedule
from blip3o_core.pipeline import Pipeline
from blip3o_core.seeds import row_seeds
from blip3o_core.tiny import evaluation
from blip3o_core.tiny.judge.judge import judge_image, to_pixels
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tokens.image_tokens import ImageTokens

from .machine import timed

COUNT, BATCH, ALONE, FAR = 400, 50, 12, 32


class Variant(NamedTuple):
    name: str
    steps: int
    guidance: float = 2.0
    interval: tuple[float, float] = (0.0, 1.0)
    added: int = 0  # to the noise seed


VARIANTS = (
    *(Variant("all", 20), Variant("8 steps", 8), Variant("4 steps", 4), Variant("2 steps", 2), Variant("1 step", 1)),
    Variant("other noise", 20, added=10**6),
    *(Variant("guided 0-0.5", 20, interval=(0.0, 0.5)), Variant("guided 0.2-0.8", 20, interval=(0.2, 0.8))),
    *(Variant("guided 0.5-1", 20, interval=(0.5, 1.0)), Variant("not guided", 20, guidance=1.0)),
)


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """In float32. Seconds are the diffusion's, for an image alone and for one in a batch."""
    pipeline = Pipeline.load(BUNDLED, device, torch.float32)
    count, batch = (16, 8) if quick else (COUNT, BATCH)
    prompts = evaluation.square_prompts(pipeline.checkpoint, count)
    right, near, far = ({name: [] for name, *_ in VARIANTS} for _ in range(3))
    alone, together = ({name: [] for name, *_ in VARIANTS} for _ in range(2))
    for first in range(0, count, batch):
        part, seeds = prompts[first : first + batch], row_seeds(0, batch, first)
        tokens = pipeline.generate_tokens([prompt.text for prompt in part], seeds)
        base = None
        for variant in VARIANTS:
            seconds, latents = _latents(pipeline, device, tokens, seeds, variant)
            name = variant.name
            together[name].append(seconds / len(part))
            images = [to_pixels(each) for each in pipeline.decode(latents).cpu().numpy()]
            base = base or images
            right[name] += [
                judge_image(image, spec_of(one.scene)).strict for image, one in zip(images, part, strict=True)
            ]
            apart = np.abs(np.stack(images).astype(int) - np.stack(base).astype(int))
            near[name].append(apart.mean())
            far[name].append(100 * (apart.max(-1) > FAR).mean())
    for row in range(2 if quick else ALONE):
        one = tokens.row(row)
        for variant in VARIANTS:
            alone[variant.name].append(_latents(pipeline, device, one, [row], variant)[0])
    return [
        {
            "variant": name, "right": sum(right[name]), "of": count, "near": statistics.mean(near[name]),
            "far_percent": statistics.mean(far[name]), "alone_s": statistics.median(alone[name]),
            "alone_share": _share(alone, name), "batch_s": statistics.median(together[name]),
            "batch_share": _share(together, name),
        }
        for name, *_ in VARIANTS
    ]  # fmt: skip


def _latents(pipeline: Pipeline, device: torch.device, tokens: ImageTokens, seeds: list[int], variant: Variant):
    """(seconds, latents)."""
    noise, made = [seed + variant.added for seed in seeds], []
    guidance = GuidanceSchedule(variant.guidance, variant.interval)

    def work() -> None:
        made.append(pipeline.latents(tokens, noise, None, variant.steps, guidance))

    return timed(work, device), made[0]


def _share(seconds: dict[str, list[float]], name: str) -> float:
    """Time as a share of the first variant's, the median over turns."""
    return statistics.median(one / whole for one, whole in zip(seconds[name], seconds[VARIANTS[0].name], strict=True))
