"""What a LoRA of the sample `BLIP3o-20-From-a-Folder-to-a-LoRA` takes from the example images, and what it costs.

    python -m benchmarks.folder_to_lora --out DIR [--seeds 3]

The example images have a black background that no caption mentions. They are curated and learnt with the sample's
settings, by the commands that its nodes run. What is measured are images of prompts kept back that name no
background, by the world's judge: how many are on black, and how many are right in everything else.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blip3o_core.checkpoint.bundled import SHORT_NAME, resolve_checkpoint
from blip3o_core.curation.engine import curate
from blip3o_core.curation.settings import CurationSettings
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny.judge.judge import detect, judge_image, to_pixels
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tiny.scenes.world import DEFAULT_BACKGROUND, World, make_scene
from blip3o_core.training.config import TrainingConfig
from blip3o_core.training.trainer import train
from blip3o_core.weights.lora import language_matrices, read_lora
from tools.example_images import BACKGROUND, FOLDER, KINDS
from tools.samples.training import RATE, STEPS

COUNT, DENOISING, GUIDANCE = 84, 5, 1.0  # prompts; of the images that are measured
WORLD = World(low_contrast=False, coloured=0.0)  # square, and without textures: no caption names a background
STRENGTHS = (0.7, 1.0)
TRAINING: dict[str, Any] = {
    "checkpoint": SHORT_NAME, "train": {"language": RATE}, "steps": STEPS, "batch": 8, "warmup": STEPS // 10,
    "condition_dropout": 0.0, "lora": {"rank": 16, "alpha": 16}, "adapter_only": True, "device": "cpu",
}  # fmt: skip


def measure(adapter: Path | None, strength: float = 1.0, count: int = COUNT) -> tuple[float, float]:
    """% of images on black; % that show what the prompt asks for, on black where there is an adapter, else on grey."""
    pipeline = Pipeline.load(resolve_checkpoint(SHORT_NAME), "cpu", torch.float32)
    if adapter is not None:
        pipeline.add_lora(read_lora(adapter, language_matrices(pipeline.language)), strength)
    scenes = [make_scene("night-test", "held_back", k, WORLD, KINDS[k % len(KINDS)]) for k in range(count)]
    seeds = list(range(count))
    tokens = pipeline.generate_tokens([caption(scene, k, True) for k, scene in enumerate(scenes)], seeds)
    images = [
        to_pixels(one) for one in pipeline.decode(pipeline.latents(tokens, seeds, None, DENOISING, GUIDANCE)).cpu()
    ]
    wanted = DEFAULT_BACKGROUND if adapter is None else BACKGROUND
    right = [
        judge_image(image, spec_of(replace(scene, background=wanted))).strict
        for image, scene in zip(images, scenes, strict=True)
    ]
    black = [detect(image).background == BACKGROUND for image in images]
    return 100 * sum(black) / count, 100 * sum(right) / count


def run(out: Path, seeds: int) -> list[str]:
    """Curate, train and measure -> the rows of the table."""
    chosen: dict[str, Any] = {"sources": str(FOLDER), "out": str(out / "curated"), "keep": {"min_sharpness": 5}}
    curate(CurationSettings(**chosen))
    rows = ["| LoRA | seed | on black % | right % |", "|---|---|---|---|", _row("none", "", measure(None))]
    for seed in range(1, seeds + 1):
        own = {**TRAINING, "data": str(out / "curated" / "shards"), "out": str(out / f"seed-{seed}"), "seed": seed}
        adapter = train(TrainingConfig(**own)) / "adapter"
        rows += [_row(f"strength {one:g}", str(seed), measure(adapter, one)) for one in STRENGTHS]
        print("\n".join(rows), flush=True)
    return rows


def _row(name: str, seed: str, found: tuple[float, float]) -> str:
    return f"| {name} | {seed} | {found[0]:.0f} | {found[1]:.0f} |"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folder_to_lora", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the shards, the LoRAs and the table")
    parser.add_argument("--seeds", type=int, default=3, help="trainings (3)")
    arguments = parser.parse_args(words)
    text = "\n".join([*run(arguments.out, arguments.seeds), ""])
    arguments.out.joinpath("result.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
