"""Language models whose matrices are stored in a byte a number, as a host stores them."""

import torch
from torch import nn

DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


class Stored(nn.Linear):
    """A matrix of small numbers and their scales; `stored` is how a host's leaf gives both."""

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.numbers, self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, (self.numbers.float() * self.scale).to(x.dtype))


def quantise(network: nn.Module, dtype: torch.dtype) -> None:
    """In place: int8 with a scale for each row, fp8 with one for the matrix; small values are subnormal."""
    for module in network.modules():
        if type(module) is nn.Linear:
            values = module.weight.detach().float()
            if dtype == torch.int8:
                scale = values.abs().amax(1, keepdim=True) / 127
                numbers = (values / scale).round().to(dtype)
            else:
                scale = values.abs().amax() / 100
                numbers = (values / scale).to(dtype)
            module.__class__ = Stored
            module.numbers, module.scale = numbers, scale
