"""Reinforcement learning of the language model (GRPO): images are scored, the tokens of better ones become likelier.

- Only the language model learns. Connector, SANA and DC-AE do not change, so the new language model's states must stay
  near those that they were trained on. The KL weight keeps them near.
- The trainer is TRL's own, without a fork (trainer.py). The pipeline of inference makes the images.
- A reward is any function of tasks and images.
"""

from collections.abc import Sequence
from pathlib import Path

from ...errors import Blip3oError
from ..watch import Watch
from .rollout import Reward, Task
from .settings import GrpoSettings


def train(
    settings: GrpoSettings,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    reward: Reward,
    resume: bool = False,
    watch: Watch = Watch(),
) -> Path | None:
    """Train to the last update, or until `watch.stop` -> the checkpoint that did best on the held-out tasks.

    It is in the published layout, and None when a run was stopped before the first look at those tasks.
    Tasks are used in their order, `prompts` per update, and from the start again after the last one. TRL seeds the
    process's random state: run this in a process of its own.
    """
    try:
        from .trainer import run
    except ImportError as error:
        raise Blip3oError(f"GRPO needs more packages: {error}. Install this project with its `rl` extra.") from error
    if len(tasks) < settings.prompts:
        raise Blip3oError(
            f"There are {len(tasks)} tasks, but an update takes {settings.prompts} prompts. Give more tasks, or set "
            "prompts lower."
        )
    if not held_out:
        raise Blip3oError("There are no held-out tasks. Give some: the best checkpoint is chosen by them.")
    return run(settings, tasks, held_out, reward, resume, watch)
