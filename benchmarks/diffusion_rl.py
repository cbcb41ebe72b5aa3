"""Reinforcement learning of the diffusion on the bundled model: what guidance in very few steps loses, won back.

At guidance 2, one diffusion step gives the bundled model wrong colours and unclear shapes. The language model stays as
it is and writes the tokens of a prompt once; so only rendering can get better. Rewards: the judge, and the colours.
Every run has the same settings but for its method and seed. DiffusionNFT learns at one step. Flow-GRPO cannot learn
from the last step and so learns at two.

- right: share of held-back prompts whose image is completely right, %.
- colour_error: mean distance of a pixel to the nearest colour that the prompt names, of 255. Where the prompt does not
  name all colours, the image does not count. True images have 0.6, for edges are mixed colours.

Both are at one step and at two. Prompts, scenes and seeds of the measurement are of no training stage, and no
checkpoint was chosen by them.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blip3o_core.checkpoint.bundled import SHORT_NAME, resolve_checkpoint
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.tiny.evaluation import square_prompts
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.judge.reward import TinyReward
from blip3o_core.tiny.scenes.spec import Spec, spec_of
from blip3o_core.tiny.scenes.world import PALETTE
from blip3o_core.training.diffusion_rl.settings import DiffusionRlSettings
from blip3o_core.training.diffusion_rl.train import train_on
from blip3o_core.training.rl.tasks import find_tasks
from blip3o_core.training.watch import Watch

METHODS, SEEDS = {"nft": 1, "flow_grpo": 2}, 3  # diffusion steps of training images
FOLDER = Path("output/diffusion_rl")  # a run that was cut off is continued
STEPS, GUIDANCE, PROMPTS, BATCH = (1, 2), 2.0, 200, 50
TASKS = 96  # prompts that a run learns from, again and again
SETTINGS: dict[str, Any] = {
    "checkpoint": SHORT_NAME, "tasks": "tiny", "rewards": "tiny", "held_out": 48, "updates": 20, "prompts": 6,
    "group": 8, "lr": 1e-3, "final_lr": 1.0, "warmup": 3, "kl": 0.0, "guidance": GUIDANCE, "scale_rewards": "group",
    "held_out_every": 5, "held_out_steps": 1, "samples": 0, "save_every": 5, "device": "cpu",
}  # fmt: skip
COLOURS_WEIGHT = 2.0
_WORST = 20.0  # colour error from which the reward is 0
_COLOURS = {name: torch.tensor(rgb, dtype=torch.float32) for name, rgb in PALETTE.items()}


class Colours:
    """1 for an image of its prompt's colours and no others. An empty image has them, too: never use it alone."""

    name, version, range = "colours", "1", (0.0, 1.0)

    def __call__(self, images, prompts, references, masks, meta) -> list[float | None]:
        errors = [colour_error(image, about["spec"]) for image, about in zip(images, meta, strict=True)]
        return [None if error is None else max(0.0, 1 - error / _WORST) for error in errors]


def colour_error(image: torch.Tensor, spec: Spec) -> float | None:
    """Of an image (H, W, 3) in [0, 1]: how far the pixels nearest to a named colour are from it, of 255, in their mean.

    A texture has a mean of zero, so it counts nothing. None where the prompt does not name all colours.
    """
    objects = [spec.word_colour] if spec.word else [obj.colour for obj in spec.objects]
    if None in objects:
        return None
    colours = [_COLOURS[name] for name in (spec.background, *objects) if name is not None]
    distances = torch.stack([(image * 255 - colour).abs().mean(-1) for colour in colours])
    nearest, error = distances.argmin(0), 0.0
    for number, colour in enumerate(colours):
        own = image[nearest == number] * 255
        if len(own):
            error += len(own) / nearest.numel() * float((own.mean(0) - colour).abs().mean())
    return error


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """The bundled model before, then after each method and seed, then means and spreads. Runs on the CPU."""
    seeds, updates = (1, 2) if quick else (SEEDS, SETTINGS["updates"])
    measure = Measure(16 if quick else PROMPTS)
    rows: list[dict] = [{"method": "before", "seed": "", **measure(Path(resolve_checkpoint(SHORT_NAME)))}]
    print(rows[-1], flush=True)
    for method in METHODS:
        for seed in range(seeds):
            began = time.process_time()
            best = _train(method, seed, updates)
            minutes = (time.process_time() - began) / 60
            rows.append({"method": method, "seed": seed, **measure(best), "cpu_minutes": minutes, "kept": best.name})
            print(rows[-1], flush=True)
    return rows + [_summary(method, rows) for method in METHODS if seeds > 1]


def _train(method: str, seed: int, updates: int) -> Path:
    out = FOLDER / f"{method}-{seed}-{updates}"
    settings = DiffusionRlSettings(
        **{**SETTINGS, "out": str(out), "method": method, "steps": METHODS[method], "seed": seed, "updates": updates}
    )
    tasks = find_tasks(settings.tasks, settings.held_out, TASKS, seed)
    mix = RewardMix([Part(TinyReward()), Part(Colours(), COLOURS_WEIGHT)])
    report = Watch(lambda entry: print(method, seed, {k: v for k, v in entry.items() if "/" not in k}, flush=True))
    best = train_on(settings, tasks, mix, out.exists(), report)
    assert best is not None
    return best


class Measure:
    """What a checkpoint's diffusion makes of tokens that were written once: the language model is always the same."""

    def __init__(self, prompts: int):
        pipeline = Pipeline.load(resolve_checkpoint(SHORT_NAME), dtype=torch.float32)
        self.prompts = square_prompts(pipeline.checkpoint, prompts)
        self.specs = [spec_of(prompt.scene) for prompt in self.prompts]
        texts = [prompt.text for prompt in self.prompts]
        self.tokens = [
            pipeline.generate_tokens(texts[first : first + BATCH], list(range(first, min(first + BATCH, prompts))))
            for first in range(0, prompts, BATCH)
        ]

    def __call__(self, checkpoint: Path) -> dict[str, float]:
        pipeline, found = Pipeline.load(checkpoint, dtype=torch.float32), {}
        for steps in STEPS:
            images = self._images(pipeline, steps)
            found |= {f"right_{steps}": self._right(images), f"colour_error_{steps}": self._error(images)}
        return found

    def _images(self, pipeline: Pipeline, steps: int) -> list[torch.Tensor]:
        made = [pipeline.render(tokens, tokens.seeds, None, steps, GUIDANCE) for tokens in self.tokens]
        return [image for batch in made for image in batch]

    def _right(self, images: Sequence[torch.Tensor]) -> float:
        pairs = zip(images, self.specs, strict=True)
        return 100 * statistics.mean(judge_image(image.numpy(), spec).strict for image, spec in pairs)

    def _error(self, images: Sequence[torch.Tensor]) -> float:
        errors = [colour_error(image, spec) for image, spec in zip(images, self.specs, strict=True)]
        return statistics.mean(error for error in errors if error is not None)


def _summary(method: str, rows: list[dict]) -> dict:
    """Mean and standard deviation over the seeds."""
    mine = [row for row in rows if row["method"] == method]
    found = {}
    for name in (name for name, value in mine[0].items() if isinstance(value, float)):
        values = [row[name] for row in mine]
        found[name] = f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"
    return {"method": f"{method}, mean", "seed": len(mine), **found}
