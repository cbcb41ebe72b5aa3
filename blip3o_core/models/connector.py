"""The connector: hidden states of the image tokens -> cross-attention tokens of the diffusion transformer.

- Linear, GELU (tanh), Linear, RMSNorm with eps 1e-5, whose weight starts at sqrt(5.5) (docs/reference.md, section 4).
- The null condition is the connector's output for zeros: a constant vector, not zeros, repeated for every token.
"""

import torch
from torch import nn


def build_connector(width_in: int, width_out: int) -> nn.Sequential:
    """(..., width_in) -> (..., width_out). The reference connectors of edit checkpoints have the same layers."""
    from diffusers.models.normalization import RMSNorm

    norm = RMSNorm(width_out, eps=1e-5)
    nn.init.constant_(norm.weight, 5.5**0.5)
    return nn.Sequential(
        nn.Linear(width_in, width_out), nn.GELU(approximate="tanh"), nn.Linear(width_out, width_out), norm
    )


def connect(connector: nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (B, N, D) -> positive and null condition, each (B, N, width)."""
    null = connector(torch.zeros_like(hidden[:1, :1]))
    positive = connector(hidden)
    return positive, null.expand_as(positive).contiguous()
