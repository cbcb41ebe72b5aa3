"""Reinforcement learning of the diffusion: images are scored, and the diffusion makes more of what scored well.

- Only a LoRA on SANA learns. Language model, connector and autoencoder stay as they are, to the last bit.
- Two methods: Flow-GRPO and DiffusionNFT, see objective.py.
- Tasks, rewards and the look at held-out tasks are those of the language model's reinforcement learning.
"""

from pathlib import Path

from ...errors import Blip3oError, first_line, is_out_of_memory
from ...rewards.load import load_rewards
from ...rewards.mix import RewardMix
from ..rl.tasks import TaskSet, find_tasks
from ..watch import Watch
from .settings import DiffusionRlSettings


def train(
    settings: DiffusionRlSettings, resume: bool = False, watch: Watch = Watch(), own_code: bool = False
) -> Path | None:
    """Train to the last update, or until `watch.stop` -> the checkpoint that did best on the held-out tasks.

    It is in the published layout, and None when a run was stopped before the first look at those tasks. `own_code`
    allows rewards and tasks that are the user's own Python.
    """
    count = settings.updates // settings.iterations * settings.prompts
    tasks = find_tasks(settings.tasks, settings.held_out, count, settings.seed, own_code)
    return train_on(settings, tasks, load_rewards(settings.rewards, own_code), resume, watch)


def train_on(
    settings: DiffusionRlSettings, tasks: TaskSet, mix: RewardMix, resume: bool = False, watch: Watch = Watch()
) -> Path | None:
    """`train` on these tasks and rewards, whatever the settings name.

    Tasks are used in their order, `prompts` per rollout, and from the start again after the last one.
    """
    try:
        from .trainer import Trainer

        trainer = Trainer(settings, tasks, mix, resume, watch)
    except ImportError as error:
        raise Blip3oError(
            f"Training needs more packages: {error}. Install this project with its `train` extra."
        ) from error
    try:
        return trainer.run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise Blip3oError(
            f"Update {trainer.update + 1} needs more memory than there is: {first_line(error)}. Set batch lower, or "
            "gradient_checkpointing or bf16 to true, and start again."
        ) from error
