"""What every engine takes and gives: a function `(prefilled, choose, callback) -> Decoded`.

B images are written. R rows are fed to the language model: B, or 2 B with guidance, the negative prompt's rows last.
T image tokens are written per image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..models.language import KVCache, LanguageModel
from .sampling import Sampling

# Called after each token with how many are written, T, and their ids (B, done). It may raise to cancel.
Callback = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Compute:
    """Where and in what to compute; None: where the weights are, and in their dtype.

    `graphs`: whether CUDA graphs may be recorded.
    """

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    graphs: bool = True

    def resolve(self, weight: torch.Tensor) -> tuple[torch.device, torch.dtype]:
        """With `weight` for what is not given; the device with its index."""
        device = torch.empty(0, device=self.device or weight.device).device
        return device, self.dtype or weight.dtype


@dataclass(frozen=True)
class Job:
    """What an engine must serve. `rows`: that are fed, guidance included. `graphs`: see Compute."""

    lm: LanguageModel
    rows: int
    sampling: Sampling
    device: torch.device
    dtype: torch.dtype
    graphs: bool = True


@dataclass(frozen=True)
class Prefilled:
    """Prompts that the language model has read, and room for the tokens to come."""

    lm: LanguageModel
    state: torch.Tensor  # (R, 1, D) after the last token of each prompt
    cache: KVCache  # of R rows, with room for T more tokens; an engine fills it
    keep: torch.Tensor  # (R, S) bool, False where a prompt is padded on the left
    positions: torch.Tensor  # (R, T) of the tokens to come
    batch: int  # B

    @property
    def total(self) -> int:
        return self.positions.shape[1]

    @property
    def guided(self) -> bool:
        return len(self.state) > self.batch

    @property
    def device(self) -> torch.device:
        return self.state.device

    @property
    def dtype(self) -> torch.dtype:
        return self.state.dtype

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(B,) ids -> (R, 1, D): with guidance both halves get the same token."""
        return self.lm.embed((torch.cat([ids, ids]) if self.guided else ids)[:, None], self.dtype)

    def new_outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (B, T), all padding, and hidden states (B, 1 + T, D) for an engine to fill."""
        ids = torch.full((self.batch, self.total), self.lm.vocabulary.pad, device=self.device)
        return ids, self.state.new_zeros(self.batch, 1 + self.total, self.state.shape[-1])


@dataclass(frozen=True)
class Decoded:
    """The written image tokens."""

    ids: torch.Tensor  # (B, T) token ids; the pad token behind an early end
    lengths: list[int]  # (B) how many of them count
    hidden: torch.Tensor  # (B, 1 + T, D): the state of the scale token, then of each image token


def report(callback: Callback | None, done: int, ids: torch.Tensor) -> None:
    """Tell the callback that the first `done` of `ids` (B, T) are written."""
    if callback is not None:
        callback(done, ids.shape[1], ids[:, :done])
