"""One training item as the model sees it: image codes and latents, its references' included."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_NOTHING = torch.empty(0)


@dataclass(frozen=True, eq=False)
class EncodedItem:
    """An image and the R reference images that it was made from; R is 0 unless the item is an edit."""

    codes: torch.Tensor  # (T,) int64
    latents: torch.Tensor = _NOTHING  # (C, h, w) float32, scaled; empty where the language model trains alone
    references: torch.Tensor | None = None  # (R, T) int64
    reference_latents: torch.Tensor | None = None  # (R, C, h, w) float32, scaled

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents."""
        channels, rows, columns = self.latents.shape
        return channels, rows, columns

    @property
    def num_references(self) -> int:
        return 0 if self.references is None else len(self.references)


def assemble(encoded: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> EncodedItem:
    """Codes and latents of an image and of its references -> the item."""
    codes, latents = zip(*encoded, strict=True)
    if len(codes) == 1:
        return EncodedItem(codes[0], latents[0])
    return EncodedItem(codes[0], latents[0], torch.stack(codes[1:]), torch.stack(latents[1:]))
