"""How the next token is chosen: output matrix, token guidance, temperature, top-k, top-p, one uniform number."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import Blip3oError

MAX_GUIDANCE = 1000.0


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Defaults are the reference's: top-k, then top-p on the survivors, temperature 1."""

    top_k: int = 1200  # 0: no limit; 1: greedy
    top_p: float = 0.95
    temperature: float = 1.0  # 0: greedy
    image_tokens_only: bool = True  # False: the whole vocabulary, and an end token ends the row
    guidance: float = 1.0  # scale on the logits against a negative prompt; 1: off

    def __post_init__(self):
        # Written so that NaN fails.
        allowed = {
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "guidance": (1 <= self.guidance <= MAX_GUIDANCE, f"1 to {MAX_GUIDANCE:g}"),
        }
        for name, (holds, range_) in allowed.items():
            if not holds:
                raise Blip3oError(f"{name} is {getattr(self, name)}; it must be {range_}.")

    @property
    def greedy(self) -> bool:
        return self.top_k == 1 or self.temperature < 1e-6  # below, the logits overflow


@dataclass(frozen=True)
class Chooser:
    """Hidden states -> the next tokens of B rows, the same for all engines."""

    sampling: Sampling
    head: torch.Tensor  # (V, D) output matrix: of the image tokens, or of the whole vocabulary
    first_id: int  # token id of its first row
    uniforms: torch.Tensor  # (B, T) in [0, 1): one number for each token to come
    guided: bool  # twice B states come, the negative prompt's last

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(R, 1, D) -> (B, V) float32, guided."""
        return self.guide(F.linear(states[:, 0], self.head).float())

    def guide(self, logits: torch.Tensor) -> torch.Tensor:
        """(R, V) float32 of all rows that are fed -> (B, V)."""
        if not self.guided:
            return logits
        positive, negative = logits.chunk(2)
        return negative + self.sampling.guidance * (positive - negative)

    def __call__(self, states: torch.Tensor, uniforms: torch.Tensor, shortcut: bool = True) -> torch.Tensor:
        """(R, 1, D) states and (B,) numbers -> (B,) token ids; `shortcut`: see `choose`."""
        return choose(self.logits(states), uniforms, self.sampling, shortcut) + self.first_id


def choose(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling, shortcut: bool = True) -> torch.Tensor:
    """(B, V) float32 logits and (B,) numbers in [0, 1) -> (B,) indices. `shortcut`: use one that waits for the device.

    Top-k, then the smallest set of the most likely survivors whose mass reaches top-p (transformers' TopK and TopP
    warpers in that order, after temperature), then the inverse of the cumulative distribution.
    """
    if sampling.greedy:
        return logits.argmax(-1)
    if not sampling.top_k and sampling.top_p == 1:
        # Nothing is cut, so nothing need be sorted: at 64 rows of 8,192 codes that is 40 times as fast on a CPU.
        edges = (logits / sampling.temperature).softmax(-1).cumsum(-1)
        return torch.searchsorted(edges, uniforms[:, None] * edges[:, -1:], right=True)[:, 0].clamp(
            max=logits.shape[-1] - 1
        )
    logits = logits if sampling.temperature == 1 else logits / sampling.temperature
    few = logits.device.type == "cpu" and FEW < min(sampling.top_k or FEW + 1, logits.shape[-1])
    if shortcut and few and sampling.top_p < 1:
        picked, undecided = _choose_among_few(logits, uniforms, sampling.top_p)
        if bool(undecided.any()):
            picked[undecided] = _choose_sorted(logits[undecided], uniforms[undecided], sampling)
        return picked
    return _choose_sorted(logits, uniforms, sampling)


# Sorting the survivors of top-k takes a seventh of a small model's step on a CPU; top-p rarely keeps this many.
FEW = 64


def _choose_among_few(logits: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_choose_sorted`, and (B,) bool: rows that the likeliest `FEW` tokens do not decide; their pick is void.

    Top-p asks for the mass of all survivors of top-k, which is not known here, only bounds of it. Where both bounds cut
    at the same token, so does the mass itself, and the pick is the same to the bit. Which of two tokens with equal
    logits comes first is left open, here as there.
    """
    values, index = logits.topk(FEW)
    mass = (values - values[:, :1]).exp()
    edges = mass.cumsum(-1)
    before = edges - mass
    lower = edges[:, -1:]
    upper = (logits - values[:, :1]).exp().sum(-1, keepdim=True) * (1 + 1e-5)  # it is summed in another order
    kept = before < top_p * upper
    undecided = kept[:, -1] | (kept != (before < top_p * lower)).any(-1)
    return _invert(mass.masked_fill(~kept, 0), index, uniforms), undecided


def _choose_sorted(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    size = logits.shape[-1]
    values, index = logits.topk(min(sampling.top_k or size, size))
    mass = (values - values[:, :1]).exp()
    if sampling.top_p < 1:
        edges = mass.cumsum(-1)
        mass = mass.masked_fill(edges - mass >= sampling.top_p * edges[:, -1:], 0)
    return _invert(mass, index, uniforms)


def _invert(mass: torch.Tensor, index: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """(B, n) mass of the tokens `index`, the likeliest first -> (B,) where each uniform number falls."""
    edges = mass.cumsum(-1)
    pick = (edges <= uniforms[:, None] * edges[:, -1:]).sum(-1)
    # At least 0: mass that is not finite is found later, and on a GPU an index of -1 would end the process.
    pick = torch.minimum(pick, (mass > 0).sum(-1) - 1).clamp(min=0)
    return index.gather(-1, pick[:, None])[:, 0]
