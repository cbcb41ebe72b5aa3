"""An image as codes, with the prompt and seed it was made with."""

from dataclasses import dataclass, replace

import torch

from ..editing.references import References
from ..errors import Blip3oError, shown
from ..models.language import LanguageModel, PromptFeatures
from ..prompts.vocabulary import CodesId


@dataclass(frozen=True)
class ImageTokens:
    """What the token generator gives and the conditioner takes. All tensors are on the CPU.

    A code c is token `image_start + c`; codes outside [0, K) are text tokens, possible only when the whole vocabulary
    was sampled. Rows that ended early are padded after `lengths`.
    """

    codes: torch.Tensor  # (B, T) int64, row-major over the grid; T = H * W unless every row ended early
    grid: tuple[int, int]  # (H, W)
    prompts: list[str]
    prompt_ids: list[list[int]] | None  # per row, through the scale token; None: the image was encoded, not generated
    seeds: list[int]
    lengths: list[int]  # tokens that count, per row
    codes_id: CodesId
    hidden: torch.Tensor | None = None  # (B, 1 + T, D)
    hidden_source: str | None = None  # the weights that made `hidden`: checkpoint and patches
    features: PromptFeatures | None = None  # of the references, for checkpoints that take them in the prompt

    def __post_init__(self):
        if not isinstance(self.codes, torch.Tensor) or self.codes.dtype != torch.int64 or self.codes.numel() == 0:
            what = getattr(self.codes, "dtype", type(self.codes).__name__)
            raise Blip3oError(f"The image tokens are {what}, or empty. They must be a tensor (rows, tokens) of int64.")
        for name in ("prompts", "seeds", "lengths"):
            if not isinstance(getattr(self, name), list | tuple):
                raise Blip3oError(
                    f"{name} is {shown(getattr(self, name))}. It must be a list with an entry for each row."
                )
        context = [self.prompts, self.seeds, self.lengths, *([] if self.prompt_ids is None else [self.prompt_ids])]
        rows = {len(self.codes), *map(len, context)}
        if self.codes.ndim != 2 or len(rows) != 1 or self.codes.shape[1] > self.grid[0] * self.grid[1]:
            raise Blip3oError(
                f"Image tokens of shape {tuple(self.codes.shape)} with {sorted(rows)} rows of context do not fit a "
                f"{self.grid[0]}x{self.grid[1]} grid."
            )

    def __len__(self) -> int:
        return len(self.codes)

    def row(self, index: int) -> "ImageTokens":
        """One row as a batch of one. Negative indices count from the end, as in a list."""
        if not -len(self) <= index < len(self):
            raise Blip3oError(f"Row {index} does not exist: there are {len(self)} rows, 0 to {len(self) - 1}.")
        first = index % len(self)
        return self.rows(slice(first, first + 1))

    def rows(self, keep: slice) -> "ImageTokens":
        """Several rows next to each other, as a batch."""
        return replace(
            self, codes=self.codes[keep], prompts=self.prompts[keep], seeds=self.seeds[keep],
            prompt_ids=self.prompt_ids and self.prompt_ids[keep], lengths=self.lengths[keep],
            hidden=None if self.hidden is None else self.hidden[keep],
        )  # fmt: skip

    @property
    def mask(self) -> torch.Tensor | None:
        """(B, 1 + T) bool, True where a hidden state counts; None when all do."""
        width = self.codes.shape[1]
        if min(self.lengths) >= width:
            return None
        return torch.arange(1 + width)[None] <= torch.tensor(self.lengths)[:, None]


def require_same_codes(language: LanguageModel, codes: ImageTokens | References, what: str) -> None:
    """Raise Blip3oError unless `codes` mean to `language` what they meant to the model that made them."""
    if not language.codes_id.understands(codes.codes_id) or codes.grid != language.grid:
        raise Blip3oError(
            f"These {what} were made with a different checkpoint: {codes.codes_id}, {codes.grid[0]}x{codes.grid[1]} "
            f"tokens. This language model has {language.codes_id}, {language.grid[0]}x{language.grid[1]} tokens. Make "
            "them again with this model, or connect the model that made them."
        )
