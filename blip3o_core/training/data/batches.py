"""One optimizer step's rows -> batches with their own randomness, ready for the device.

Row r of step s is the item at position s * rows + r, with the randomness of the key (seed, s, r). Microbatches and
processes take consecutive slices of the rows, so what a step computes does not depend on how it is divided.
"""

import dataclasses
from dataclasses import dataclass

import torch

from ...prompts.encoder import PromptEncoder
from ..config import TrainingConfig
from ..losses import IGNORED, Batch, Objective, collate, timesteps_from
from .items import Item, ShuffledOrder
from .latent_cache import ImageEncoder
from .packed import PackedItem
from .row_randomness import row_randomness


@dataclass(frozen=True)
class Microbatch:
    """What one forward pass takes: see `joint_loss`."""

    batch: Batch
    noise: torch.Tensor
    timesteps: torch.Tensor
    dropped: torch.Tensor

    @property
    def labels(self) -> int:
        """Positions that are predicted: the first one of a row is not."""
        return int((self.batch.labels[:, 1:] != IGNORED).sum())

    def to(self, device: torch.device) -> "Microbatch":
        tensors = {f.name: getattr(self.batch, f.name) for f in dataclasses.fields(self.batch)}
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
        return Microbatch(Batch(**moved), self.noise.to(device), self.timesteps.to(device), self.dropped.to(device))


class Batches:
    """The passes of one process."""

    def __init__(
        self, config: TrainingConfig, items: list[Item | PackedItem], prompts: PromptEncoder, pictures: ImageEncoder,
        process: int = 0, processes: int = 1,
    ):  # fmt: skip
        self.config, self.items, self.prompts, self.pictures = config, items, prompts, pictures
        self.process, self.processes = process, processes
        self.order = ShuffledOrder(len(items), config.seed)
        self.objective = Objective(config.all_text, config.last_positions, config.zero_null)
        self.rows = config.batch * config.accumulation * processes
        for pack in {item.pack for item in items if isinstance(item, PackedItem)}:
            pack.check(pictures.checkpoint, pictures.shape)

    def microbatches(self, step: int) -> list[Microbatch]:
        """This process's passes of one step."""
        size = self.config.batch
        firsts = [(k * self.processes + self.process) * size for k in range(self.config.accumulation)]
        return [self._microbatch(step, range(first, first + size)) for first in firsts]

    def _microbatch(self, step: int, rows: range) -> Microbatch:
        items = [self.items[self.order.index(step * self.rows + row)] for row in rows]
        drawn = [row_randomness(self.config.seed, step, row, self.pictures.shape) for row in rows]
        captions = [_caption(item, one.caption) for item, one in zip(items, drawn, strict=True)]
        encoded = [item.encode(self.pictures) for item in items]
        codes, latents, references, reference_latents = map(list, zip(*encoded, strict=True))
        batch = collate(
            self.prompts, [caption or "" for caption in captions], torch.stack(codes), torch.stack(latents),
            self.objective, references=references, reference_latents=reference_latents,
        )  # fmt: skip
        named = torch.tensor([caption is not None for caption in captions])
        batch = dataclasses.replace(batch, labels=batch.labels.masked_fill(~named[:, None], IGNORED))
        timesteps = timesteps_from(torch.tensor([one.timestep for one in drawn], dtype=torch.float64))
        dropped = torch.tensor([one.dropout < self.config.condition_dropout for one in drawn])
        return Microbatch(batch, torch.stack([one.noise for one in drawn]), timesteps, dropped)


def _caption(item: Item | PackedItem, chance: float) -> str | None:
    """One of the item's captions, None for a reconstruction."""
    return item.captions[int(chance * len(item.captions))] if item.captions else None
