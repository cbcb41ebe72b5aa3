"""Exponential moving average of the trained parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class EMA:
    """`shadow` holds the average by parameter name. It starts as a copy of the parameters, in their dtype (float32)."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.shadow = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """shadow = decay * shadow + (1 - decay) * parameter. Call it once after every optimizer step."""
        for name, parameter in self.parameters.items():
            self.shadow[name].lerp_(parameter, 1 - self.decay)

    def copy_to_parameters(self) -> None:
        """Overwrite the parameters with their average."""
        _copy(self.shadow, self.parameters)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block and its own again after it."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.copy_to_parameters()
        try:
            yield
        finally:
            _copy(own, self.parameters)


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.nn.Parameter]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
