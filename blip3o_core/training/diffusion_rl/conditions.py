"""What the images of a task are rendered from. The frozen language model writes it once for the whole group.

So the images of a group differ in the noise of the diffusion alone, and so do their rewards.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ...decoding.sampling import Sampling
from ...diffusion.sampler import Conditioning
from ...editing.references import EditInputs
from ...pipeline import Pipeline
from ..rl.tasks import Opened, Task
from .policy import Condition


@torch.no_grad()
def make_conditions(
    pipeline: Pipeline, tasks: Sequence[Task], opened: Sequence[Opened], seeds: Sequence[int], batch: int
) -> list[Condition]:
    """A condition for each task, from image tokens written with its seed. Prompts without references share a pass.

    An edit is rendered without its mask: what stays outside of it is for the rewards to judge.
    """
    found: list[Condition | None] = [None] * len(tasks)
    plain = [number for number, task in enumerate(tasks) if not task.references]
    side = pipeline.checkpoint.trained_side
    for first in range(0, len(plain), batch):
        numbers = plain[first : first + batch]
        tokens = pipeline.generate_tokens([tasks[n].prompt for n in numbers], [seeds[n] for n in numbers], Sampling())
        conditioning = pipeline.conditioning(tokens)
        for row, number in enumerate(numbers):
            found[number] = _on_cpu(_row(conditioning, row), pipeline.latent_shape(side, side))
    for number, (task, images) in enumerate(zip(tasks, opened, strict=True)):
        if found[number] is None:
            references = pipeline.references(list(images.references))
            tokens = pipeline.generate_tokens([task.prompt], [seeds[number]], Sampling(), references=references)
            edit = EditInputs(references)
            shape = pipeline.latent_shape(*edit.size(None))
            found[number] = _on_cpu(pipeline.conditioning(tokens, edit), shape)
    return [one for one in found if one is not None]


def _row(conditioning: Conditioning, row: int) -> Conditioning:
    keep = slice(row, row + 1)
    mask, negative = conditioning.mask, conditioning.negative
    return replace(
        conditioning,
        positive=conditioning.positive[keep],
        negative=negative if len(negative) == 1 else negative[keep],
        mask=mask if mask is None or len(mask) == 1 else mask[keep],
    )


def _on_cpu(conditioning: Conditioning, shape: tuple[int, int, int]) -> Condition:
    moved = replace(
        conditioning,
        positive=conditioning.positive.cpu().clone(),
        negative=conditioning.negative.cpu().clone(),
        references=replace(
            conditioning.references, latents=tuple(latent.cpu() for latent in conditioning.references.latents)
        ),
    )
    return Condition(moved, shape)
