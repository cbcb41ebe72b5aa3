"""GRPO of a LoRA for the language model on the wire, and the LoRA it learnt."""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...blip3o_core.rewards.load import load_rewards
from ...blip3o_core.rewards.settings import RewardList
from ...blip3o_core.settings import load_settings
from ...blip3o_core.training.grpo.states import newest_state
from ...blip3o_core.training.run_folder import RunFolder, step_of
from .. import requirements
from . import lora_files, notes, reward_files, training_run
from .language import Language
from .lora import add_lora
from .training_log import RewardLog
from .training_tasks import read_tasks

PACKAGES = ("accelerate", "datasets", "peft", "pydantic", "scipy", "tensorboard", "trl", "yaml")  # of train and rl
MEASURABLE = 16  # prompts, from which on some are left out of training
SAMPLES = 4  # images that the node shows
PROMPTS = 8  # in an update
TOGETHER = {True: 64, False: 16}  # images in a pass; True: of the bundled model
LOOKS = 5  # at the prompts that are measured with, at least where there are as many updates


@dataclass(frozen=True)
class Request:
    """The node's inputs."""

    prompts: str
    reward: str
    file_name: str
    updates: int
    group: int
    learning_rate: float
    rank: int
    kl: float
    seed: int
    reference: torch.Tensor | None
    mask: torch.Tensor | None


class RewardRun(training_run.Run):
    COMMAND, ADVICE = "grpo", "set group lower"
    log: RewardLog

    @cached_property
    def best(self) -> int:
        """The update that did best on the prompts that are measured with; 0: none was better than the checkpoint."""
        best = RunFolder(self.folder / "run").last
        return 0 if best is None else step_of(best)

    def adapter(self) -> Path | None:
        """The best of a run that came to its end, else that of the last state."""
        if self.best and self.log.done == self.log.steps:
            return RunFolder(self.folder / "run").last / "adapter"
        return newest_state(self.folder / "run" / "trainer")


def train(lm: Language, request: Request) -> tuple[Language, str, dict]:
    """(the language model with its new LoRA, the LoRA's name, what the node's page shows).

    Raises ComfyUI's interrupt when the user cancels, and Blip3oError when the training fails; what was learnt until
    then is saved.
    """
    _require_packages()
    tasks = read_tasks(request.prompts, request.reference, request.mask)
    rewards = _rewards(request.reward)
    training_run.check(lm, request.file_name)
    folder = training_run.new_folder()
    settings = _settings(lm, request, folder, len(tasks.prompts), tasks.write(folder))
    run = RewardRun(folder, RewardLog(folder / "run", request.updates))
    name = run.train(settings | {"rewards": rewards}, request.file_name)
    _tell(run, name)
    return add_lora(lm, lora_files.resolve(name), 1.0), name, run.shown()


def _require_packages() -> None:
    requirements.check_extras("Training", PACKAGES, "train,rl")


def _rewards(name: str) -> list[dict[str, Any]]:
    """The settings of a reward from the list. Raises Blip3oError for one that a workflow may not use."""
    entry: Any = reward_files.entry(name)
    if isinstance(entry, str) and entry not in reward_files.BUILT_IN:
        listed = load_settings(RewardList, entry).rewards
    else:
        listed = RewardList(rewards=[entry]).rewards
    load_rewards(listed)  # says what is missing before anything starts, and lets no code pass
    return [one.model_dump() for one in listed]


def _settings(lm: Language, request: Request, folder: Path, prompts: int, listed: Path) -> dict[str, Any]:
    held_out = min(32, prompts // 4) if prompts >= MEASURABLE else 0
    each = min(PROMPTS, prompts - held_out)
    images = each * request.group
    return {
        **training_run.settings(lm, folder, request.rank),
        "tasks": str(listed), "held_out": held_out or str(listed),
        "updates": request.updates, "prompts": each, "group": request.group, "lr": request.learning_rate,
        "warmup": min(10, request.updates // 10), "kl": request.kl, "seed": request.seed,
        # docs/grpo.md, "The tiny world": with the layer in front it breaks.
        "frozen": ["model.layers.0"] if lm.is_bundled else [],
        "top_p": 0.95,  # as the images are made afterwards
        "batch": max(n for n in range(1, TOGETHER[lm.is_bundled] + 1) if images % n == 0),
        "held_out_every": max(1, min(20, request.updates // LOOKS)), "samples": SAMPLES, "save_every": 5,
    }  # fmt: skip


def _tell(run: RewardRun, name: str) -> None:
    looks, best = run.log.looks, run.best
    measured = f"Reward on the prompts to measure with: {looks[0][1]:.3g} before"
    if best:
        words = f"{measured}, {dict(looks)[best]:.3g} after update {best}, which is the best."
    else:
        words = f"{measured}. No update was better, so this is the last one ({looks[-1][1]:.3g})."
    notes.tell([f"Saved as models/loras/{name}. {words}"], logging.INFO)
    notes.tell(run.log.warnings)
