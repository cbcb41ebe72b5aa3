"""What changes while a network is trained: its weights, the optimizers, the average, the number of steps.

The trainer of whole checkpoints and the stages of the tiny recipe both train with it.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from ..errors import Blip3oError
from .ema import EMA
from .fsdp import full_tensor, load_optimizer_state, optimizer_state, shard_like
from .schedule import WarmupCosine

_OPTIMIZERS = ("optimizer", "muon")  # their names in a state file


class TrainState:
    """`parameters` are the trained ones by name, `optimizers` AdamW and perhaps Muon (see optimizer.py)."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        optimizers: list[torch.optim.Optimizer],
        schedule: WarmupCosine,
        ema_decay: float | None = None,
    ):
        self.parameters, self.optimizers, self.schedule = parameters, optimizers, schedule
        self.ema = EMA(parameters, ema_decay) if ema_decay is not None else None
        self.step = 0  # optimizer steps that were made

    def apply_gradients(self) -> float:
        """One optimizer step -> the share of the peak learning rates it was made with. Gradients are cleared."""
        scale = self.schedule.scale(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        return scale

    def ema_applied(self):
        """A context in which the parameters are their average, or themselves when none is kept."""
        return self.ema.applied() if self.ema is not None else nullcontext()

    def state_dict(self, keep: bool = True) -> dict:
        """All that the next step depends on, with tensors that FSDP divided put together.

        Processes must call it at the same time. With `keep` false, the parameters and their average are not collected:
        only the process that writes the file needs them.
        """
        return {
            "step": self.step,
            "parameters": gather(self.parameters, keep),
            **{name: optimizer_state(one) for name, one in zip(_OPTIMIZERS, self.optimizers, strict=False)},
            "ema": gather(self.ema.shadow, keep) if self.ema is not None else None,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(shard_like(state["parameters"][name], parameter))
        if self.ema is not None:
            for name, shadow in self.ema.shadow.items():
                shadow.copy_(shard_like(state["ema"][name], shadow))
        for name, optimizer in zip(_OPTIMIZERS, self.optimizers, strict=False):
            load_optimizer_state(optimizer, state[name])
        self.step = state["step"]


def gather(tensors: dict[str, torch.Tensor], keep: bool = True) -> dict[str, torch.Tensor]:
    """Complete tensors by name. All processes must call it; those without `keep` get None for each."""
    pairs = ((name, full_tensor(tensor)) for name, tensor in tensors.items())
    return dict(pairs) if keep else {name: None for name, _ in pairs}


def read_state(path: Path, remedy: str) -> dict:
    """The `state_dict` in a file. Raises Blip3oError, which ends with `remedy`, when the file cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the pickle or the zip file does
        raise Blip3oError(f"Cannot read {path}: {error}. {remedy}") from error
