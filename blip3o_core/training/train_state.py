"""What changes while a network is trained: its weights, the optimizers, the average, the number of steps.

The trainer of whole checkpoints and the stages of the tiny recipe both train with it.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from ..checks import require_finite
from ..errors import Blip3oError, first_line
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

    def restore(self, path: Path, remedy: str) -> None:
        """Load a `state_dict` from a file. Raises Blip3oError with `remedy` when it is that of a different run."""
        state = read_state(path, remedy)
        try:
            self._check(state)
            self.load_state_dict(state)
        except Blip3oError as error:
            raise Blip3oError(f"{path} cannot be resumed from: {error} {remedy}") from None
        except Exception as error:  # what torch says of an optimizer's state that does not fit
            raise Blip3oError(f"{path} cannot be resumed from: {first_line(error)}. {remedy}") from error

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

    def _check(self, state) -> None:
        """Raise Blip3oError unless a state is of these parameters; torch would spread a small tensor over a larger."""
        if not isinstance(state, dict) or not isinstance(state.get("step"), int) or state["step"] < 0:
            raise Blip3oError("it does not hold the state of a training run.")
        for kind, wanted in (("parameters", self.parameters), ("ema", self.ema.shadow if self.ema else {})):
            found = state.get(kind) or {}
            for name, tensor in wanted.items():
                if name not in found or found[name].shape != tensor.shape:
                    shape = list(found[name].shape) if name in found else "absent"
                    raise Blip3oError(f"{name} is {shape} in its {kind}; this run needs {list(tensor.shape)}.")
                require_finite(found[name], f"{name} in its {kind}", "It is damaged.")
        for name, optimizer in zip(_OPTIMIZERS, self.optimizers, strict=False):
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            for number, moments in state[name]["state"].items():
                for moment in moments.values():
                    if isinstance(moment, torch.Tensor) and moment.ndim and moment.shape != parameters[number].shape:
                        raise Blip3oError(f"a moment of its {name} is {list(moment.shape)}, not of this run.")


def gather(tensors: dict[str, torch.Tensor], keep: bool = True) -> dict[str, torch.Tensor]:
    """Complete tensors by name. All processes must call it; those without `keep` get None for each."""
    pairs = ((name, full_tensor(tensor)) for name, tensor in tensors.items())
    return dict(pairs) if keep else {name: None for name, _ in pairs}


def read_state(path: Path, remedy: str) -> dict:
    """The `state_dict` in a file. Raises Blip3oError, which ends with `remedy`, when the file cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the pickle or the zip file does
        raise Blip3oError(f"Cannot read {path}: {first_line(error)}. {remedy}") from error
