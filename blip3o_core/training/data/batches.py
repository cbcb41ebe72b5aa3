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
from .item_table import Item, Pending, encode_all
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
        if processes > 1:
            self._require_one_shape()

    def _require_one_shape(self) -> None:
        """Raise Blip3oError for data whose latents may have several shapes."""
        packs, why = self.items.packs, "Processes would then run different numbers of forward passes"
        if self.images.fit == "keep" and len(packs) < len(self.items.parts):
            raise Blip3oError(
                f"fit is 'keep', so latents have several shapes. {why}: train in one process, or use fit 'crop' or "
                "'stretch'."
            )
        if len({pack.shape for pack in packs}) > 1:
            raise Blip3oError(
                f"data has packed files with latents of several shapes. {why}: train in one process, or on files of "
                "one shape."
            )

    def microbatches(self, step: int) -> list[Microbatch]:
        """This process's share of one step, one microbatch for each forward pass.

        Rows of one pass have latents of one shape, and in one process as many references, which make prompts longer.
        Where all rows are alike, passes are consecutive rows.
        """
        return self.finish(self.prepare(step))

    def prepare(self, step: int) -> "list[_Rows | Microbatch]":
        """All of a step that needs no network; any thread may do it."""
        size = self.config.batch
        firsts = [(k * self.processes + self.process) * size for k in range(self.config.accumulation)]
        looked = self._look(step, [first + row for first in firsts for row in range(size)])
        passes = looked.divided(size, by_references=self.processes == 1)
        return [one if any(isinstance(item, Pending) for item in one.items) else self._collate(one) for one in passes]

    def finish(self, prepared: "list[_Rows | Microbatch]") -> list[Microbatch]:
        """Encode the images that are not in the cache, in their order."""
        return [self._collate(one) if isinstance(one, _Rows) else one for one in prepared]

    def _look(self, step: int, rows: list[int]) -> "_Rows":
        items = [self.items[self.order.index(step * self.rows + row)] for row in rows]
        looked = [item.look(self.images) for item in items]
        random = [row_randomness(self.config.seed, step, row, one.shape) for row, one in zip(rows, looked, strict=True)]
        captions = [_caption(item, one.caption) for item, one in zip(items, random, strict=True)]
        return _Rows(looked, captions, random)

    def _collate(self, rows: "_Rows") -> Microbatch:
        encoded = encode_all(rows.items, self.images)
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
    """Rows before they are put together."""

    items: list[EncodedItem | Pending]
    captions: list[str | None]
    random: list[RowRandomness]

    def divided(self, most: int, by_references: bool) -> "list[_Rows]":
        """Groups of at most `most` rows whose latents have one shape; `by_references`: and as many references."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, item in enumerate(self.items):
            groups.setdefault((*item.shape, item.num_references * by_references), []).append(row)
        return [
            self._chosen(group[first : first + most])
            for group in groups.values()
            for first in range(0, len(group), most)
        ]

    def _chosen(self, rows: list[int]) -> "_Rows":
        return _Rows(
            [self.items[row] for row in rows],
            [self.captions[row] for row in rows],
            [self.random[row] for row in rows],
        )


def _caption(item: Item | PackedItem, number: float) -> str | None:
    """One of the item's captions, chosen by a number in [0, 1); None for a reconstruction, which has none."""
    return item.captions[int(number * len(item.captions))] if item.captions else None
