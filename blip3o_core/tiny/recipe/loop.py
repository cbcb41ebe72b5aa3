"""The optimization loop of the parts' own training: Muon on hidden matrices, AdamW on the rest, exact resume.

The general trainer (`blip3o_core/training`) trains whole checkpoints; a part is trained before there is one.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...errors import Blip3oError
from ...files import atomic_write
from ...seeds import seeded
from ...training.optimizer import EMA

Report = Callable[[dict], None]


@dataclass(frozen=True)
class FitSettings:
    steps: int
    lr: float  # AdamW's peak
    muon: float  # Muon's peak; hidden matrices and convolutions
    batch: int = 48
    warmup: int = 20
    final_lr: float = 0.0  # where the cosine ends, as a share of the peak
    weight_decay: float = 0.0
    clip: float = 1.0
    ema_decay: float | None = None  # when given, the network ends with the exponential moving average of its weights
    bf16: bool = True
    seed: int = 0
    save_every: int = 250


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Modules that are built in the block get the starting values of `seed`; the process's random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Optimizers:
    """torch's Muon takes matrices; a convolution gives it a flat view that shares its memory."""

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], settings: FitSettings):
        self.settings = settings
        self.matrices, self.others = list(matrices), list(others)
        self.flat = [nn.Parameter(p.data.flatten(1)) if p.ndim > 2 else p for p in self.matrices]
        self.optimizers = [torch.optim.AdamW(self.others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)]
        if self.flat:
            muon = torch.optim.Muon(self.flat, lr=0.0, weight_decay=settings.weight_decay, ns_steps=4)
            self.optimizers.append(muon)

    def step(self, step: int) -> float:
        """One update at the learning rates of `step` -> the gradient's norm before it was clipped."""
        settings = self.settings
        norm = nn.utils.clip_grad_norm_(self.matrices + self.others, settings.clip)
        for flat, p in zip(self.flat, self.matrices, strict=True):
            if flat is not p:
                flat.grad = p.grad.flatten(1)
        scale = (step + 1) / settings.warmup
        if step >= settings.warmup:
            progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
            scale = settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer, peak in zip(self.optimizers, (settings.lr, settings.muon), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad()
        for p in self.matrices:
            p.grad = None
        return float(norm)

    def state(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load(self, states: list[dict]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def split_parameters(network: nn.Module, excluded: tuple[str, ...]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters -> hidden matrices (and full convolutions) for Muon, all others.

    `excluded`: parts of names that AdamW keeps: embeddings, heads, and matrices whose starting value is to be kept.
    """
    matrices, others = [], []
    for name, p in network.named_parameters():
        if p.requires_grad:
            hidden = p.ndim >= 2 and p.shape[1] > 1 and not any(part in name for part in excluded)
            (matrices if hidden else others).append(p)
    return matrices, others


def fit(
    network: nn.Module,
    loss: Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, float]]],
    settings: FitSettings,
    folder: Path,
    excluded: tuple[str, ...] = (),
    report: Report | None = None,
    every: int = 50,
) -> None:
    """Train `network` in place to the last step; a second call after a cut-off goes on from the last saved state.

    `loss(step, generator)` draws everything random from the generator, which is keyed by seed and step: a run that was
    resumed takes the same steps. Raises Blip3oError, the last saved state untouched, when a loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = Optimizers(*split_parameters(network, excluded), settings)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    ema = EMA(trained, settings.ema_decay) if settings.ema_decay is not None else None
    saved, step = folder / "state.pt", 0
    if saved.is_file():
        state = torch.load(saved, map_location="cpu", weights_only=True)
        step = state["step"]
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(state["parameters"][name])
        optimizers.load(state["optimizers"])
        if ema is not None:
            ema.shadow = state["ema"]
    network.train()
    began, spent = time.perf_counter(), time.process_time()
    while step < settings.steps:
        generator = seeded(settings.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16) if settings.bf16 else nullcontext():
            value, numbers = loss(step, generator)
        if not bool(torch.isfinite(value)):
            raise Blip3oError(
                f"Step {step + 1} of {folder.name} stopped: the loss is {value.item()}. The last good state is in "
                f"{saved}; lower the learning rates ({settings.lr}, {settings.muon}) or set bf16 to false."
            )
        value.backward()
        norm = optimizers.step(step)
        if ema is not None:
            ema.update()
        step += 1
        if step == 1 or step % every == 0 or step == settings.steps:
            entry = {"step": step, "loss": value.item(), **numbers, "gradient_norm": norm,
                     "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - spent}  # fmt: skip
            with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            if report is not None:
                report({"stage": folder.name, **entry})
        if step % settings.save_every == 0 or step == settings.steps:
            state = {"step": step, "parameters": {n: p.detach() for n, p in trained.items()},
                     "optimizers": optimizers.state(), "ema": ema.shadow if ema else None}  # fmt: skip
            with atomic_write(saved) as scratch, open(scratch, "wb") as file:
                torch.save(state, file)
    if ema is not None:
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(ema.shadow[name])
    network.eval()


def random_integers(generator: torch.Generator, below: int, count: int) -> list[int]:
    return torch.randint(below, (count,), generator=generator).tolist()
