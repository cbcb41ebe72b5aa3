"""A drawn picture as codes, with the context it was drawn in."""

from dataclasses import dataclass, replace

import torch

from .errors import Blip3oError


@dataclass(frozen=True)
class ImageTokens:
    """What the token generator gives and the conditioner takes. All tensors on the CPU.

    A code c is token `image_start + c`; codes outside [0, K) are text tokens, possible only when the whole vocabulary
    was sampled. Rows that ended early are padded behind `lengths`.
    """

    codes: torch.Tensor  # (B, T) int64, row-major over the grid; T = H * W unless every row ended early
    grid: tuple[int, int]  # (H, W)
    prompts: list[str]
    prompt_ids: list[list[int]]  # per row, through the scale token
    seeds: list[int]
    lengths: list[int]  # tokens that count, per row
    vocabulary_id: str
    hidden: torch.Tensor | None = None  # (B, 1 + T, D)
    hidden_source: str | None = None  # what made `hidden`: checkpoint and patches

    def __post_init__(self):
        rows = {len(self.codes), len(self.prompt_ids), len(self.seeds), len(self.lengths), len(self.prompts)}
        if self.codes.ndim != 2 or len(rows) != 1 or self.codes.shape[1] > self.grid[0] * self.grid[1]:
            raise Blip3oError(
                f"Image tokens of shape {tuple(self.codes.shape)} with {sorted(rows)} rows of context do not fit a "
                f"{self.grid[0]}x{self.grid[1]} grid."
            )

    def __len__(self) -> int:
        return len(self.codes)

    def row(self, index: int) -> "ImageTokens":
        """One row as a batch of one."""
        keep = slice(index, index + 1)
        return replace(
            self, codes=self.codes[keep], prompts=self.prompts[keep], prompt_ids=self.prompt_ids[keep],
            seeds=self.seeds[keep], lengths=self.lengths[keep],
            hidden=None if self.hidden is None else self.hidden[keep],
        )  # fmt: skip

    @property
    def mask(self) -> torch.Tensor | None:
        """(B, 1 + T) bool, True where a hidden state counts; None when all do."""
        width = self.codes.shape[1]
        if min(self.lengths) >= width:
            return None
        return torch.arange(1 + width)[None] <= torch.tensor(self.lengths)[:, None]
