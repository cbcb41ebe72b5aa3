"""AdamW, and Muon for hidden matrices: the parameter groups of the trainer, and the pair that all training uses.

Every group has a `peak`, its highest learning rate; the schedule scales it (see `TrainState.apply_gradients`).
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import Blip3oError
from ..weights.names import SANA
from .config import TrainingConfig
from .joint_model import published_name

# Beginning -> endings of the hidden matrices' published names.
_HIDDEN = {
    "model.layers.": ("_proj.weight",),
    SANA + "transformer_blocks.": ("attn1.to_q.weight", "attn1.to_k.weight", "to_v.weight", "to_out.0.weight"),
}


@dataclass(frozen=True)
class MuonOptions:
    # 'match_rms_adamw': the root mean square of a step is that of AdamW's, so that learning rates compare.
    # 'original': a step has the size of Muon's authors, sqrt(max(1, rows / columns)) times the rate.
    adjust_lr: str = "match_rms_adamw"
    ns_steps: int = 5  # Newton-Schulz iterations


def make_optimizers(parts: dict[str, dict[str, nn.Parameter]], config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW, followed by Muon for hidden matrices when `config.muon` is given.

    One group for each part and kind: matrices decay, norms and biases do not.
    """
    adamw, muon = [], []
    for part, parameters in parts.items():
        rate, by_muon = config.train[part], [n for n in parameters if config.muon is not None and is_hidden(n)]
        if by_muon:
            muon.append(group([parameters[name] for name in by_muon], rate * config.muon, config.weight_decay))
        others = [parameter for name, parameter in parameters.items() if name not in by_muon]
        for decays in (True, False):
            mine = [p for p in others if (p.ndim >= 2) == decays]
            if mine:
                adamw.append(group(mine, rate, config.weight_decay if decays else 0.0))
    if config.muon is not None and not muon:
        besides = " besides adapters" if config.lora else ""
        raise Blip3oError(
            f"muon is {config.muon}, but the trained parts ({', '.join(config.train)}) have no hidden matrices"
            f"{besides}. Remove muon, or train language or sana."
        )
    return adamw_and_muon(adamw, muon, config.betas)


def group(parameters: list[nn.Parameter], peak: float, decay: float = 0.0) -> dict:
    """A parameter group whose learning rate the schedule sets from `peak`."""
    return {"params": parameters, "lr": 0.0, "peak": peak, "weight_decay": decay}


def adamw_and_muon(
    adamw: list[dict], muon: list[dict], betas: tuple[float, ...], options: MuonOptions | None = None
) -> list[torch.optim.Optimizer]:
    """AdamW for the groups of `adamw`, and Muon behind it when there are groups of `muon`."""
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(adamw, betas=tuple(betas))]
    if muon:
        if not hasattr(torch.optim, "Muon"):
            raise Blip3oError(f"muon needs torch 2.9 or newer; this is torch {torch.__version__}. Remove muon.")
        optimizers.append(Muon(muon, options or MuonOptions()))
    return optimizers


def is_hidden(name: str) -> bool:
    """Whether a JointModel's parameter is a matrix between hidden states, which is what Muon is for.

    Embeddings, heads, modulation tables, convolutions, connectors and adapters are not. Nor are the queries and keys of
    SANA's cross-attention: small models start with these two aligned, which orthogonal steps undo.
    """
    published = published_name(name)
    return any(published.startswith(part) and published.endswith(_HIDDEN[part]) for part in _HIDDEN)


class Muon(getattr(torch.optim, "Muon", torch.optim.Optimizer)):  # type: ignore[misc]
    """torch's Muon takes matrices only: it gets a convolution's kernel as a flat view that shares its memory."""

    def __init__(self, groups: list[dict], options: MuonOptions):
        self._views: list[tuple[nn.Parameter, nn.Parameter]] = []  # kernel, its (out, in * h * w) view
        groups = [{**one, "params": [self._matrix(p) for p in one["params"]]} for one in groups]
        super().__init__(
            groups, momentum=0.95, nesterov=True, ns_steps=options.ns_steps, adjust_lr_fn=options.adjust_lr
        )

    def _matrix(self, parameter: nn.Parameter) -> nn.Parameter:
        if parameter.ndim == 2:
            return parameter
        self._views.append((parameter, nn.Parameter(parameter.data.flatten(1))))
        return self._views[-1][1]

    def step(self, closure=None):
        for kernel, view in self._views:
            view.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for kernel, _ in self._views:
            kernel.grad = None
