"""AdamW groups, the learning rate of a step, the running average of the weights, and each sample's own randomness."""

import hashlib
import math
from contextlib import contextmanager

import torch

from .config import TrainingConfig


def make_optimizer(parts: dict[str, dict[str, torch.nn.Parameter]], config: TrainingConfig) -> torch.optim.AdamW:
    """One group per part and kind: matrices decay, norms and biases do not. `peak` is the part's learning rate."""
    groups = []
    for part, parameters in parts.items():
        for decays in (True, False):
            mine = [p for p in parameters.values() if (p.ndim >= 2) == decays]
            decay = config.weight_decay if decays else 0.0
            if mine:
                groups.append({"params": mine, "lr": 0.0, "peak": config.train[part], "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=config.betas)


def lr_scale(step: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate at a step counted from 0: linear warm-up, then a cosine to `final_lr`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Average:
    """Exponential moving average of the trained parameters, float32, beside them."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.shadow = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        for name, parameter in self.parameters.items():
            self.shadow[name].lerp_(parameter, 1 - self.decay)

    @contextmanager
    def applied(self):
        """The model with averaged weights, for the length of the block."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        _copy(self.shadow, self.parameters)
        try:
            yield
        finally:
            _copy(kept, self.parameters)


@torch.no_grad()
def _copy(source: dict, target: dict) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def chances(seed: int, step: int, row: int, shape: tuple[int, ...]) -> tuple[float, float, torch.Tensor]:
    """Two numbers in [0, 1) (timestep, dropout) and noise (C, h, w) for row `row` of all rows of a step.

    The key knows nothing of processes or passes: however a batch is divided, a row sees the same noise.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{row}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    timestep, dropout = torch.rand(2, generator=generator).tolist()
    return timestep, dropout, torch.randn(shape, generator=generator)
