"""What `align` teaches: states of the language model from which the connector can read what SANA was taught.

A state must say what comes next; what it was read from, nothing asks for. The connector's error alone does not bring a
letter back: what is left of it is too faint for the connector, and what the connector does not read, no layer learns to
carry. So directions of the states that are fixed and random are asked for the letter and for the texture that the
caption names. They are no part of the model.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from ...seeds import seeded
from ..scenes.textures import KINDS
from ..scenes.words import LETTERS
from ..scenes.world import COLOURS
from .model_config import FIRST_EDITION, Sizes
from .oracle_codes import FIRST_OBJECT, first_letter
from .renderer import oracle_conditions

# How much the connector's error counts at pieces of objects and at letters; at grounds, nine places of ten, it is 1.
_OF_OBJECT, _OF_LETTER = 5.0, 20.0
_OF_TEXTURE = 4.0  # where a texture is named, times that


@dataclass(frozen=True)
class Alignment:
    """Weights of three losses beside cross-entropy."""

    conditions: float  # mean squared error of the connector to what SANA was taught
    letters: float = 0.0  # cross-entropy of the letter that was written, from fixed directions
    textures: float = 0.0  # of the texture that the caption names at a place, or none

    def loss(
        self, connector: nn.Module, states: torch.Tensor, codes: torch.Tensor, textures: torch.Tensor, sizes: Sizes
    ) -> torch.Tensor:
        """States (B, H*W, D) of image tokens, their codes and the textures that captions name there (B, H*W) -> loss.

        The scale token has no code, so nothing to keep.
        """
        loss = self.conditions * condition_error(connector(states), codes, textures, sizes)
        width = states.shape[-1]
        logits = 2 * width**0.5 * F.normalize(states.float(), dim=-1) @ directions(width).to(states.device)
        of_letters, of_textures = logits.split([len(LETTERS), 1 + len(KINDS)], -1)
        written = codes >= first_letter(sizes)
        if self.letters and written.any():
            letters = (codes[written] - first_letter(sizes)) // len(COLOURS)
            loss = loss + self.letters * F.cross_entropy(of_letters[written], letters)
        if self.textures:
            weights = condition_weights(codes, textures, sizes).masked_fill(written, 0)
            errors = F.cross_entropy(of_textures.flatten(0, 1), textures.flatten(), reduction="none")
            loss = loss + self.textures * (errors * weights.flatten()).sum() / weights.sum()
        return loss


def condition_error(made: torch.Tensor, codes: torch.Tensor, textures: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Mean squared error of conditions (B, H*W, width) to what SANA was taught for these codes and named textures."""
    errors = (made.float() - oracle_conditions(codes, textures, sizes=sizes)[:, 1:]).square().mean(-1)
    weights = condition_weights(codes, textures, sizes)
    return (errors * weights).sum() / weights.sum()


def condition_weights(codes: torch.Tensor, textures: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Codes and named textures of any shape -> how much the connector's error counts at each.

    Were all alike, the connector would learn all letters as one: they are too few to be seen in the mean.
    """
    if sizes == FIRST_EDITION:  # which has no letters
        return torch.ones_like(codes, dtype=torch.float32)
    objects, letters = codes >= FIRST_OBJECT, codes >= first_letter(sizes)
    weights = 1 + (_OF_OBJECT - 1) * objects + (_OF_LETTER - _OF_OBJECT) * letters
    return weights * (1 + (_OF_TEXTURE - 1) * (textures > 0))


@lru_cache(maxsize=2)
def directions(width: int) -> torch.Tensor:
    """(width, letters + 1 + kinds of texture) orthonormal columns, always the same. All callers share the tensor."""
    count = len(LETTERS) + 1 + len(KINDS)
    return torch.linalg.qr(torch.randn(width, count, generator=seeded(7)))[0]
