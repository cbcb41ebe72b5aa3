"""What TRL calls while it trains: a function that rolls out tasks, and one that judges their images."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ...errors import Blip3oError
from ...rewards.mix import RewardMix
from ...seeds import seed_of
from ..rl.judging import candidates_of, judge, summary
from ..rl.processes import together
from ..rl.tasks import Task
from .rollout import Roller
from .settings import GrpoSettings

T = TypeVar("T")


class BetweenUpdates(Blip3oError):
    """What stopped a run while no update was half done: its state can be saved."""


class Exchange:
    """Tasks go to TRL by their numbers, for its rollout function is given prompts and nothing else.

    Random numbers are functions of (seed, update, row), so a resumed run has the same ones. Rows of one task share
    their diffusion noise, so that a difference in reward comes from the tokens and not from the noise.
    """

    def __init__(self, settings: GrpoSettings, tasks: Sequence[Task], mix: RewardMix, roller: Roller):
        self.settings, self.tasks, self.mix, self.roller = settings, tasks, mix, roller
        self.clock = roller.clock
        self._entry: dict[str, Any] = {}

    def rollout(self, prompts: list[str], trainer) -> dict:
        """TRL's `rollout_func`."""
        update, rank = trainer.state.global_step, trainer.accelerator.process_index
        tasks, settings = [self.tasks[int(number)] for number in prompts], self.settings
        seeds = [seed_of(settings.seed, update, rank * len(tasks) + row) for row in range(len(tasks))]
        noise = [seed_of(settings.seed, update, task.prompt) for task in tasks]
        made = _stopping(
            lambda: together(lambda: self.roller(tasks, seeds, noise, settings.rollout_sampling, settings.steps))
        )
        first = self.roller.pipeline.language.vocabulary.image_start
        return {
            "prompt_ids": made.prompt_ids,
            "completion_ids": [[first + code for code in row] for row in made.codes],
            "logprobs": None,  # only vLLM's correction needs them
            "rendered": made.images,  # "image" would mean an input of a vision model to TRL
        }

    def reward(self, prompts: list[str], rendered: list, **_) -> list[float]:
        """TRL's reward function: one number for each image, of all rewards weighed together."""
        tasks = [self.tasks[int(number)] for number in prompts]
        with self.clock("score"):
            candidates = candidates_of(tasks, rendered, self.roller.open_task)
            judged = _stopping(lambda: judge(self.mix, candidates, self.settings.group))
        self._entry = summary(tasks, judged, self.settings.pass_at)
        return judged.rewards

    def take_entry(self) -> dict[str, Any]:
        """What the log says of the newest rollout, once."""
        entry, self._entry = self._entry, {}
        return entry


def _stopping(work: Callable[[], T]) -> T:
    try:
        return work()
    except Blip3oError as error:
        raise BetweenUpdates(str(error)) from error
