"""Reinforcement learning of the language model (GRPO): images are scored, the tokens of better ones become likelier.

- Only the language model learns. Connector, SANA and DC-AE do not change, so the new language model's states must stay
  near those that they were trained on. The KL weight keeps them near.
- The trainer is TRL's own, without a fork (trainer.py). The pipeline of inference makes the images.
"""

from pathlib import Path

from ...errors import Blip3oError
from ...rewards.load import load_rewards
from ...rewards.mix import RewardMix
from ..rl.tasks import TaskSet, find_tasks
from ..watch import Watch
from .settings import GrpoSettings


def train(settings: GrpoSettings, resume: bool = False, watch: Watch = Watch(), own_code: bool = False) -> Path | None:
    """Train to the last update, or until `watch.stop` -> the checkpoint that did best on the held-out tasks.

    It is in the published layout, and None when a run was stopped before the first look at those tasks. `own_code`
    allows rewards and tasks that are the user's own Python. TRL seeds the process's random state: run this in a process
    of its own.
    """
    rollouts = settings.updates // settings.iterations
    tasks = find_tasks(settings.tasks, settings.held_out, rollouts * settings.prompts, settings.seed, own_code)
    return train_on(settings, tasks, load_rewards(settings.rewards, own_code), resume, watch)


def train_on(
    settings: GrpoSettings, tasks: TaskSet, mix: RewardMix, resume: bool = False, watch: Watch = Watch()
) -> Path | None:
    """`train` on these tasks and rewards, whatever the settings name.

    Tasks are used in their order, `prompts` per rollout, and from the start again after the last one.
    """
    try:
        from .trainer import run
    except ImportError as error:
        raise Blip3oError(f"GRPO needs more packages: {error}. Install this project with its `rl` extra.") from error
    if len(tasks.train) < settings.prompts:
        raise Blip3oError(
            f"There are {len(tasks.train)} tasks, but a rollout takes {settings.prompts} prompts. Give more tasks, or "
            "set prompts lower."
        )
    return run(settings, tasks, mix, resume, watch)
