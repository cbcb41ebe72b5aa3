"""AdamW and Muon groups, the learning rate of a step, the average of the weights, and each sample's own randomness."""

import hashlib
import math
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ..errors import Blip3oError
from ..weights.names import SANA
from .config import TrainingConfig
from .joint_model import published_name

# Beginning -> endings of the hidden matrices' published names.
_HIDDEN = {
    "model.layers.": ("_proj.weight",),
    SANA + "transformer_blocks.": ("attn1.to_q.weight", "attn1.to_k.weight", "to_v.weight", "to_out.0.weight"),
}


def make_optimizers(
    parts: dict[str, dict[str, torch.nn.Parameter]], config: TrainingConfig
) -> list[torch.optim.Optimizer]:
    """AdamW, and behind it Muon for hidden matrices when `config.muon` is given.

    One group per part and kind: matrices decay, norms and biases do not. `peak` is the group's highest learning rate.
    """
    adamw, muon = [], []
    for part, parameters in parts.items():
        rate, by_muon = config.train[part], [n for n in parameters if config.muon is not None and is_hidden(n)]
        if by_muon:
            muon.append(_group([parameters[name] for name in by_muon], rate * config.muon, config.weight_decay))
        others = [parameter for name, parameter in parameters.items() if name not in by_muon]
        for decays in (True, False):
            mine = [p for p in others if (p.ndim >= 2) == decays]
            if mine:
                adamw.append(_group(mine, rate, config.weight_decay if decays else 0.0))
    optimizers = [torch.optim.AdamW(adamw, betas=config.betas)]
    if config.muon is not None:
        optimizers.append(_muon(muon, config))
    return optimizers


def is_hidden(name: str) -> bool:
    """Whether a JointModel's parameter is a matrix between hidden states, which is what Muon is for.

    Not embeddings, heads, modulation tables, convolutions, connectors and adapters. SANA's cross-attention queries and
    keys are not either: small models are started with these two aligned, which orthogonal steps undo.
    """
    published = published_name(name)
    return any(published.startswith(part) and published.endswith(_HIDDEN[part]) for part in _HIDDEN)


def _group(parameters: list, peak: float, decay: float) -> dict:
    return {"params": parameters, "lr": 0.0, "peak": peak, "weight_decay": decay}


def _muon(groups: list[dict], config: TrainingConfig) -> torch.optim.Optimizer:
    if not groups:
        raise Blip3oError(
            f"muon is {config.muon}, but no hidden matrix is trained: {', '.join(config.train)} have none"
            f"{' besides adapters' if config.lora else ''}. Leave it out, or train language or sana."
        )
    if not hasattr(torch.optim, "Muon"):
        raise Blip3oError(f"muon needs torch 2.9 or newer; this is torch {torch.__version__}. Leave it out.")
    # An orthogonal step with the size (RMS) of AdamW's, so that rates compare.
    return torch.optim.Muon(groups, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")


def lr_scale(step: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate at a step counted from 0: linear warm-up, then a cosine to `final_lr`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class EMA:
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


class RowRandomness(NamedTuple):
    """What is drawn for one row; numbers are in [0, 1)."""

    timestep: float
    dropout: float
    caption: float  # which of several
    noise: torch.Tensor  # (C, h, w)


def row_randomness(seed: int, step: int, row: int, shape: tuple[int, ...]) -> RowRandomness:
    """For row `row` of all rows of a step, with noise (C, h, w).

    The key knows nothing of processes or passes: however a batch is divided, a row sees the same noise.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{row}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    timestep, dropout = torch.rand(2, generator=generator).tolist()
    noise = torch.randn(shape, generator=generator)
    return RowRandomness(timestep, dropout, float(torch.rand(1, generator=generator)), noise)
