"""Conditions and images of tasks, with what is remembered of them: the language model is frozen and writes once."""

from collections.abc import Sequence

import torch

from ...diffusion import sampler as diffusion
from ...editing.jobs import require_image_tokenizer
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ...seeds import seed_of
from ..rl.tasks import Opened, Task, open_task
from .conditions import make_conditions
from .policy import Condition, stack
from .rollout import passes
from .settings import DiffusionRlSettings

_KEPT_BYTES = 2**31  # of conditions that are kept for the next time their tasks come


class Imaging:
    """Of the tasks of one run and this process's share of the held-out ones."""

    def __init__(self, pipeline: Pipeline, settings: DiffusionRlSettings, tasks: Sequence[Task], together: int):
        self.pipeline, self.settings, self.tasks = pipeline, settings, tasks
        self.together = together  # tasks whose tokens are written at once
        self._opened: dict[int, Opened] = {}  # by id of a task
        self._held_out: list[Condition] = []
        self._kept: dict[int, Condition] = {}  # by place in `tasks`
        self._kept_bytes = 0

    def forget_images(self) -> None:
        """The images of tasks are read once for a group, and not kept for all of a run."""
        self._opened.clear()

    def open_task(self, task: Task) -> Opened:
        if id(task) not in self._opened:
            self._opened[id(task)] = open_task(task)
        return self._opened[id(task)]

    def conditions(self, places: Sequence[int]) -> list[Condition]:
        """Of the training tasks at these places. A task has the same tokens in every update; they are kept.

        They are written with those of the same neighbours always, which may change their last bit: a resumed run has
        kept others than one that was not interrupted.
        """
        made: dict[int, Condition] = {}
        for block in sorted({place // self.together for place in places if place not in self._kept}):
            wanted = range(block * self.together, min((block + 1) * self.together, len(self.tasks)))
            seeds = [seed_of(self.settings.seed, "tokens", place) for place in wanted]
            made |= zip(wanted, self._make([self.tasks[place] for place in wanted], seeds), strict=True)
        for place, condition in made.items():
            if place not in self._kept and self._kept_bytes < _KEPT_BYTES:
                self._kept[place] = condition
                self._kept_bytes += condition.nbytes
        return [made.get(place) or self._kept[place] for place in places]

    def held_out(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[torch.Tensor]:
        """As inference makes them, without noise between the steps. Every look asks for the same tasks."""
        settings, network = self.settings, self.pipeline.transformer
        if not self._held_out:
            self._held_out = self._make(tasks, list(seeds))
        schedule = diffusion.sigmas(settings.held_out_steps, self.pipeline.checkpoint.shift)
        guidance = diffusion.GuidanceSchedule(settings.guidance, shift=self.pipeline.checkpoint.shift)
        images: list[torch.Tensor] = []
        for rows in passes(self._held_out, settings.batch):
            seen = self._held_out[rows]
            noise = diffusion.initial_noise(seen[0].shape, list(seeds[rows]))
            with torch.autocast(network.device.type, torch.bfloat16, enabled=settings.bf16):
                latents = diffusion.sample(network, noise, stack(seen), schedule, guidance)
            images += list(self.pipeline.decode(latents).cpu())
        return images

    def _make(self, tasks: Sequence[Task], seeds: list[int]) -> list[Condition]:
        opened = [self.open_task(task) for task in tasks]
        return make_conditions(self.pipeline, tasks, opened, seeds, self.settings.batch)


def check_tasks(tasks: Sequence[Task], checkpoint) -> None:
    """Raise Blip3oError, before hours of work, for a task that the checkpoint cannot do."""
    encoder, mode = checkpoint.prompt_encoder, checkpoint.reference_mode
    cells = checkpoint.grid[0] * checkpoint.grid[1]
    if any(task.references for task in tasks):
        require_image_tokenizer(checkpoint)
    for task in tasks:
        try:
            if task.references:
                codes = torch.zeros(len(task.references), cells, dtype=torch.int64)
                encoder.encode_edit(task.prompt, codes, as_features=mode.features)
            else:
                encoder.encode(task.prompt)
        except Blip3oError as error:
            raise task.named(error) from error
