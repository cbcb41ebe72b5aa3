"""Reinforcement learning of the token generator (GRPO): drawn pictures are scored, and likelier made likelier.

- Only the language model learns. Connector, SANA and DC-AE stay as they are, so the states of the new language model
  must stay near those they were trained on: that is what the KL weight is for.
- The trainer is TRL's, un-forked (grpo_trainer.py); pictures are drawn by the pipeline that inference uses.
- A reward is any function of tasks and pictures; this module knows nothing of what is right.
"""

from collections.abc import Sequence
from pathlib import Path

from ...errors import Blip3oError
from .rollout import Report, Reward, Task
from .settings import GrpoSettings


def train(
    settings: GrpoSettings,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    reward: Reward,
    resume: bool = False,
    report: Report | None = None,
) -> Path:
    """Run to the last update -> the checkpoint that did best on the held-out tasks, in the published layout.

    Tasks are taken in the order given, `prompts` per update, from the start again when they are used up. Seeds the
    process's random state, as TRL does: give it a process of its own.
    """
    try:
        from .trainer import run
    except ImportError as error:
        raise Blip3oError(f"GRPO needs more packages: {error}. Install this project's `rl` extra.") from error
    if len(tasks) < settings.prompts:
        raise Blip3oError(f"{len(tasks)} tasks for {settings.prompts} prompts per update: give at least as many.")
    if not held_out:
        raise Blip3oError("There are no held-out tasks, which the best checkpoint is chosen by. Give some.")
    return run(settings, tasks, held_out, reward, resume, report)
