"""Small runs of GRPO: prompts, a reward that is quick to learn, and what a run leaves behind."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.training.grpo import train as grpo
from blip3o_core.training.grpo.rollout import Roller
from blip3o_core.training.grpo.settings import GrpoSettings
from blip3o_core.training.rl.held_out import HeldOut
from blip3o_core.training.rl.looks import Looks
from blip3o_core.training.rl.tasks import Task, TaskSet, identity_of
from blip3o_core.training.run_folder import Inputs, RunFolder
from blip3o_core.training.watch import Watch

from .tiny_checkpoint import Sizes, make_checkpoint

TASKS = [Task(prompt, prompt.split()[0]) for prompt in ("a cat", "two dogs on a very long road", "a tree", "two owls")]
SMALL = {"tasks": "tiny", "rewards": ["tiny"], "pass_at": 0.7, "updates": 4, "prompts": 2, "group": 4, "lr": 3e-3,
         "warmup": 1, "held_out_every": 2, "save_every": 2, "steps": 2, "held_out_steps": 2, "device": "cpu",
         "samples": 2}  # fmt: skip


class Judge:
    """A function of images as a reward."""

    version, range = "1", (-math.inf, math.inf)

    def __init__(self, judge: Callable, name: str = "test"):
        self.judge, self.name = judge, name

    def __call__(self, images, prompts, references, masks, meta):
        return self.judge(images)


def low_codes(images) -> list[float]:
    """The share of codes in the lower half: 0.5 by chance, whatever the prompt."""
    return [float((image < 0.5).float().mean()) for image in images]


def mix_of(*judges: Callable) -> RewardMix:
    return RewardMix([Part(Judge(judge, judge.__name__)) for judge in judges])


def task_set(tasks=TASKS, prompts: int = 2) -> TaskSet:
    return TaskSet(tasks, tasks, identity_of(tasks[:prompts], tasks))


def small_checkpoint(folder: Path) -> Path:
    return make_checkpoint(
        folder, sizes=Sizes(codes=32, grid=3, latent_side=3, prompt_limit=300), edit=("use_und_image_vae",)
    )


def small_settings(source: Path, out: Path) -> GrpoSettings:
    return GrpoSettings(checkpoint=str(source), out=str(out), **SMALL)


def make_images_of_codes(monkeypatch) -> None:
    """The image of codes is the codes: rewards may then be about them, and nothing is rendered."""

    def render(self, tokens, seeds, steps, guidance, edit=None):
        shares = tokens.codes.float() / self.language.vocabulary.num_codes
        return shares[:, None, :, None].expand(-1, -1, -1, 3)

    monkeypatch.setattr(Pipeline, "render", render)


def trained(settings, *judges, resume=False, watch=Watch(), tasks=None) -> tuple[Path, list[dict]]:
    best = grpo.train_on(settings, tasks or task_set(), mix_of(*(judges or [low_codes])), resume, watch)
    return best, read_log(settings)


def read_log(settings) -> list[dict]:
    return [json.loads(line) for line in RunFolder(Path(settings.out)).log.read_text().splitlines()]


def updates(log: list[dict], name: str) -> list:
    return [entry[name] for entry in log if name in entry]


def weights_after(settings, update: int) -> dict[str, torch.Tensor]:
    folder = Path(settings.out) / "trainer" / f"checkpoint-{update}"
    return load_file(folder / ("model.safetensors" if settings.lora is None else "adapter_model.safetensors"))


def make_trainer(settings, tasks=TASKS, judge=low_codes):
    """TRL's trainer as `train` builds it, not run."""
    from blip3o_core.training.grpo.callback import GrpoCallback
    from blip3o_core.training.grpo.exchange import Exchange
    from blip3o_core.training.grpo.trainer import make_trainer, trl_arguments

    pipeline = Pipeline(open_checkpoint(settings.checkpoint), "cpu", torch.float32)
    mix, folder = mix_of(judge), RunFolder(Path(settings.out))
    exchange = Exchange(settings, tasks, mix, Roller(pipeline, settings))
    held_out = HeldOut(tasks, mix, exchange.roller.open_task)
    inputs = Inputs("checkpoint", "data", len(tasks))
    callback = GrpoCallback(exchange, Looks(settings, held_out, folder, {}, inputs, Watch()))
    arguments = trl_arguments(settings, folder.path / "trainer", pipeline.language.num_tokens)
    return make_trainer(settings, arguments, exchange, callback)


def remember_rollouts(monkeypatch) -> list:
    """(prompts, seeds, noise seeds) of each rollout for training, to come."""
    seen, make = [], Roller.__call__

    def remember(self, tasks, seeds, noise, sampling, steps):
        if sampling == self.settings.rollout_sampling:
            seen.append(([task.prompt for task in tasks], list(seeds), list(noise)))
        return make(self, tasks, seeds, noise, sampling, steps)

    monkeypatch.setattr(Roller, "__call__", remember)
    return seen


def interrupt_rollout(monkeypatch, update: int) -> None:
    """Ctrl-C, twice, while the rollout of an update runs, counted from 0."""
    seen, make = [], Roller.__call__

    def interrupted(self, tasks, seeds, noise, sampling, steps):
        if sampling == self.settings.rollout_sampling:
            seen.append(1)
            if len(seen) > update:
                raise KeyboardInterrupt
        return make(self, tasks, seeds, noise, sampling, steps)

    monkeypatch.setattr(Roller, "__call__", interrupted)
