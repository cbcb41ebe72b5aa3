"""The rows of one optimizer step -> batches with their own random numbers, ready for the device.

Row r of step s is the item at position s * rows + r, with the randomness of the key (seed, s, r). Microbatches and
processes take consecutive slices of the rows, so what a step computes does not depend on how it is divided.
"""

import dataclasses
from dataclasses import dataclass

import torch

from ...errors import Blip3oError
from ...prompts.encoder import PromptEncoder
from ..config import TrainingConfig
from ..losses import Noising, timesteps_from
from .collate import IGNORED, Batch, collate
from .encoded import EncodedItem
from .item_table import Item, Pending
from .items import Items
from .latent_cache import ImageEncoder
from .order import order_of
from .packed import PackedItem
from .row_randomness import RowRandomness, row_randomness


@dataclass(frozen=True)
class Microbatch:
    """The rows of one forward pass."""

    batch: Batch
    noising: Noising

    @property
    def num_labels(self) -> int:
        """Positions that are predicted: every label but the first of a row."""
        return int((self.batch.labels[:, 1:] != IGNORED).sum())

    def to(self, device: torch.device) -> "Microbatch":
        return Microbatch(self.batch.to(device), self.noising.to(device))


class Batches:
    """The microbatches of one process."""

    def __init__(
        self,
        config: TrainingConfig,
        items: Items,
        prompts: PromptEncoder,
        images: ImageEncoder,
        process: int = 0,
        processes: int = 1,
    ):
        self.config, self.items, self.prompts, self.images = config, items, prompts, images
        self.process, self.processes = process, processes
        self.order = order_of(items.parts, config.weights, config.seed)
        self.rows = config.batch * config.accumulation * processes  # of one optimizer step
        for pack in items.packs:
            pack.check(images.checkpoint, images.shape)
        if processes > 1 and len({pack.shape for pack in items.packs}) > 1:
            raise Blip3oError(
                "data has packed files with latents of several shapes. Processes would then run different numbers of "
                "forward passes: train in one process, or on files of one shape."
            )

    def microbatches(self, step: int) -> list[Microbatch]:
        """This process's share of one step, one microbatch for each forward pass.

        Rows whose latents have another shape are a microbatch of their own; in one process also those with another
        number of references, whose prompts are longer.
        """
        return self.finish(self.prepare(step))

    def prepare(self, step: int) -> "list[_Rows | list[Microbatch]]":
        """All of a step that needs no network; any thread may do it."""
        size = self.config.batch
        firsts = [(k * self.processes + self.process) * size for k in range(self.config.accumulation)]
        return [self._prepare(step, range(first, first + size)) for first in firsts]

    def finish(self, prepared: "list[_Rows | list[Microbatch]]") -> list[Microbatch]:
        """Encode the images that are not in the cache, in their order."""
        found = (self._collate_all(one) if isinstance(one, _Rows) else one for one in prepared)
        return [microbatch for several in found for microbatch in several]

    def _prepare(self, step: int, rows: range) -> "_Rows | list[Microbatch]":
        items = [self.items[self.order.index(step * self.rows + row)] for row in rows]
        shapes = [item.pack.shape if isinstance(item, PackedItem) else self.images.shape for item in items]
        random = [row_randomness(self.config.seed, step, row, shape) for row, shape in zip(rows, shapes, strict=True)]
        captions = [_caption(item, one.caption) for item, one in zip(items, random, strict=True)]
        found = _Rows([item.look(self.images) for item in items], captions, random, shapes)
        return found if any(isinstance(one, Pending) for one in found.items) else self._collate_all(found)

    def _collate_all(self, rows: "_Rows") -> list[Microbatch]:
        kinds = rows.shapes if self.processes > 1 else rows.kinds
        return [self._collate(rows.of_kind(kinds, kind)) for kind in dict.fromkeys(kinds)]

    def _collate(self, rows: "_Rows") -> Microbatch:
        encoded = [one.encode(self.images) if isinstance(one, Pending) else one for one in rows.items]
        batch = collate(self.prompts, [caption or "" for caption in rows.captions], encoded, self.config.quirks)
        has_caption = torch.tensor([caption is not None for caption in rows.captions])
        batch = dataclasses.replace(batch, labels=batch.labels.masked_fill(~has_caption[:, None], IGNORED))
        random = rows.random
        noising = Noising(
            noise=torch.stack([one.noise for one in random]),
            timesteps=timesteps_from(torch.tensor([one.timestep for one in random], dtype=torch.float64)),
            dropped=torch.tensor([one.dropout < self.config.condition_dropout for one in random]),
        )
        return Microbatch(batch, noising)


@dataclass(frozen=True)
class _Rows:
    """The rows of one forward pass before they are put together."""

    items: list[EncodedItem | Pending]
    captions: list[str | None]
    random: list[RowRandomness]
    shapes: list[tuple[int, int, int]]  # of the latents

    @property
    def kinds(self) -> list[tuple]:
        """Shape and number of references of every row."""
        return [(shape, item.num_references) for shape, item in zip(self.shapes, self.items, strict=True)]

    def of_kind(self, kinds: list[tuple], kind: tuple) -> "_Rows":
        """The rows whose entry of `kinds` is `kind`."""
        chosen = [row for row, own in enumerate(kinds) if own == kind]
        return _Rows(
            *([values[row] for row in chosen] for values in (self.items, self.captions, self.random, self.shapes))
        )


def _caption(item: Item | PackedItem, number: float) -> str | None:
    """One of the item's captions, chosen by a number in [0, 1); None for a reconstruction, which has none."""
    return item.captions[int(number * len(item.captions))] if item.captions else None
