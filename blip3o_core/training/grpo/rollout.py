"""Rollouts of GRPO: the images that the policy makes of tasks, as inference makes them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from ...decoding.sampling import Sampling
from ...editing.jobs import require_image_tokenizer
from ...editing.references import EditInputs, References
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ..rl.clock import Clock
from ..rl.tasks import Opened, Task, open_task
from .settings import GrpoSettings

_REMEMBERED = 64  # tasks whose references stay encoded


@dataclass(frozen=True)
class Rolled:
    """Images (H, W, 3) on the CPU, and the codes that they were rendered from, each behind the ids of its prompt."""

    prompt_ids: list[list[int]]
    codes: list[list[int]]
    images: list[torch.Tensor]


class Roller:
    """Makes images of tasks with the language model that is trained."""

    def __init__(self, pipeline: Pipeline, settings: GrpoSettings, clock: Clock | None = None):
        self.pipeline, self.settings, self.clock = pipeline, settings, clock or Clock()
        self._opened: OrderedDict[int, tuple[Task, Opened]] = OrderedDict()
        self._encoded: OrderedDict[int, tuple[Task, References]] = OrderedDict()

    def open_task(self, task: Task) -> Opened:
        """The task's images, which are read once for all images of its group."""
        return _remembered(self._opened, task, open_task)

    def __call__(
        self, tasks: Sequence[Task], seeds: Sequence[int], noise_seeds: Sequence[int], sampling: Sampling, steps: int
    ) -> Rolled:
        """An image for each task, in passes of at most `batch` rows with the same references."""
        rolled = Rolled([], [], [])
        for rows in _passes(tasks, self.settings.batch):
            task, prompts = tasks[rows.start], [task.prompt for task in tasks[rows]]
            references = _remembered(self._encoded, task, self._encode) if task.references else None
            autocast = torch.autocast(self.pipeline.device.type, torch.bfloat16)
            with autocast if self.settings.bf16 else nullcontext():
                with self.clock("rollout"):
                    tokens = self.pipeline.generate_tokens(prompts, list(seeds[rows]), sampling, references=references)
                with self.clock("render"):
                    edit = None if references is None else EditInputs(references)
                    images = self.pipeline.render(
                        tokens, list(noise_seeds[rows]), steps=steps, guidance=self.settings.guidance, edit=edit
                    ).cpu()
            rolled.prompt_ids.extend(tokens.prompt_ids or ())
            rolled.codes.extend(tokens.codes.tolist())
            rolled.images.extend(images)
        return rolled

    def held_out(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[torch.Tensor]:
        """Images sampled as inference does (top-p 0.95)."""
        return self(tasks, seeds, seeds, Sampling(), self.settings.held_out_steps).images

    def _encode(self, task: Task) -> References:
        images = list(self.open_task(task).references)  # its error names the task
        try:
            return self.pipeline.references(images)
        except Blip3oError as error:
            raise task.named(error) from error


def check_tasks(tasks: Sequence[Task], checkpoint) -> None:
    """Raise Blip3oError, before hours of work, for a task that the checkpoint cannot do."""
    encoder, cells = checkpoint.prompt_encoder, checkpoint.grid[0] * checkpoint.grid[1]
    if any(task.references for task in tasks):
        require_image_tokenizer(checkpoint)
        if checkpoint.reference_mode.features:
            raise Blip3oError(
                f"{checkpoint.folder} takes references as features of the image tokenizer, and GRPO trains on prompts "
                "of tokens alone. Train text to image with it, or take a checkpoint whose references are tokens."
            )
    for task in tasks:
        try:
            if task.references:
                encoder.encode_edit(task.prompt, torch.zeros(len(task.references), cells, dtype=torch.int64))
            else:
                encoder.encode(task.prompt)
        except Blip3oError as error:
            raise task.named(error) from error


def _passes(tasks: Sequence[Task], batch: int) -> Iterator[slice]:
    """Neighbours that can be made at once: without references, or of one task."""
    first = 0
    for row in range(1, len(tasks) + 1):
        together = row < len(tasks) and (
            tasks[row] is tasks[first] or not (tasks[row].references or tasks[first].references)
        )
        if row - first == batch or not together:
            yield slice(first, row)
            first = row


def _remembered(kept: OrderedDict, task: Task, make):
    """`make(task)`, or what it gave before for this very task."""
    if id(task) not in kept:
        kept[id(task)] = (task, make(task))  # the task itself, so that no other gets its id
        if len(kept) > _REMEMBERED:
            kept.popitem(last=False)
    kept.move_to_end(id(task))
    return kept[id(task)][1]
