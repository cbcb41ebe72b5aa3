"""Reinforcement learning of the diffusion: images are scored, and the diffusion makes more of what scored well.

- Only a LoRA on SANA learns. Language model, connector and autoencoder stay as they are, to the last bit.
- Two methods: Flow-GRPO and DiffusionNFT, see objective.py.
- Tasks, rewards and the look at held-out tasks are those of the language model's reinforcement learning.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import Blip3oError
from ..rl.tasks import TaskSet, find_tasks
from ..watch import Watch
from .settings import DiffusionRlSettings

if TYPE_CHECKING:
    from ...rewards.mix import RewardMix


def train(
    settings: DiffusionRlSettings,
    resume: bool = False,
    watch: Watch = Watch(),
    tasks: TaskSet | None = None,
    mix: "RewardMix | None" = None,
) -> Path | None:
    """Train to the last update, or until `watch.stop` -> the checkpoint that did best on the held-out tasks.

    It is in the published layout, and None when a run was stopped before the first look at those tasks. `tasks` and
    `mix` take the place of those that the settings name.
    """
    from ...rewards.load import load_rewards

    count = settings.updates * settings.prompts
    tasks = find_tasks(settings.tasks, settings.held_out, count, settings.seed) if tasks is None else tasks
    if not tasks.train or not tasks.held_out:
        what = "tasks to train on" if not tasks.train else "held-out tasks, by which the best checkpoint is chosen"
        raise Blip3oError(f"There are no {what}. Give some.")
    mix = load_rewards(settings.rewards, own_code=True) if mix is None else mix
    try:
        from .trainer import Trainer

        trainer = Trainer(settings, tasks, mix, resume, watch)
    except ImportError as error:
        raise Blip3oError(
            f"RL on the diffusion needs more packages: {error}. Install this project with its `train` extra."
        ) from error
    try:
        return trainer.run()
    finally:
        trainer.close()
