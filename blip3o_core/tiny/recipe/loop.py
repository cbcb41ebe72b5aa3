"""Trains one part of the tiny model: Muon on hidden matrices, AdamW on the rest, exact resume.

The general trainer (`blip3o_core/training`) trains whole checkpoints; a part is trained before there is one. Both share
optimizers, schedule, average and the state file.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...checks import is_finite
from ...errors import Blip3oError
from ...files import atomic_write
from ...seeds import seeded
from ...settings import BelowOne, Count, Flag, Fraction, NotNegative, Positive, Settings, Text, Whole
from ...training.optimizer import MuonOptions, adamw_and_muon, group
from ...training.run_folder import cut_log, saving
from ...training.schedule import WarmupCosine
from ...training.train_state import TrainState
from .ahead import made_ahead

Report = Callable[[dict], None]
# The recipe's rates were found with steps of the size that Muon's authors give them, and one iteration less.
_MUON = MuonOptions(adjust_lr="original", ns_steps=4)


class FitSettings(Settings):
    steps: Count
    lr: Positive  # AdamW's peak
    muon: Positive  # Muon's peak; hidden matrices and convolutions
    batch: Count = 48
    warmup: Whole = 20
    final_lr: Fraction = 0.0  # where the cosine ends, as a share of the peak
    weight_decay: NotNegative = 0.0  # of Muon's matrices
    clip: Positive = 1.0  # largest norm of the gradient
    ema_decay: BelowOne | None = None  # when given, the network ends with the moving average of its weights
    bf16: Flag = True
    seed: Whole = 0
    save_every: Count = 250
    log_every: Count = 50
    device: Text = "cpu"  # of torch
    workers: Whole = 0  # processes that make data ahead, for a device that would wait for it


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Modules built in the block get the starting values of `seed`. The process's random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def split_parameters(
    network: nn.Module, excluded: tuple[str, ...]
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Trainable parameters by name -> hidden matrices (and full convolutions) for Muon, and all others.

    `excluded` lists parts of names that AdamW keeps: embeddings, heads, and matrices whose starting value must stay
    recognisable.
    """
    matrices, others = {}, {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            hidden = p.ndim >= 2 and p.shape[1] > 1 and not any(part in name for part in excluded)
            (matrices if hidden else others)[name] = p
    return matrices, others


def train_state(network: nn.Module, settings: FitSettings, excluded: tuple[str, ...] = ()) -> TrainState:
    """The trainable parameters of `network` with fresh optimizers."""
    matrices, others = split_parameters(network, excluded)
    muon = [group(list(matrices.values()), settings.muon, settings.weight_decay)] if matrices else []
    optimizers = adamw_and_muon([group(list(others.values()), settings.lr)], muon, (0.9, 0.95), _MUON)
    schedule = WarmupCosine(settings.steps, settings.warmup, settings.final_lr)
    return TrainState({**matrices, **others}, optimizers, schedule, settings.ema_decay)


def fit(
    network: nn.Module,
    make_data: Callable[[torch.Generator], Any],
    loss: Callable[[Any], tuple[torch.Tensor, dict[str, float]]],
    settings: FitSettings,
    folder: Path,
    excluded: tuple[str, ...] = (),
    report: Report | None = None,
) -> None:
    """Train `network` in place to the last step. A second call continues an interrupted one from its last saved state.

    `make_data(generator)` makes what a step needs on the CPU, with all of its random numbers from the generator, whose
    seed is a function of the run's seed and the step: a resumed run then takes the same steps. `loss(data)` gets it on
    the device of the settings, where the network is until training ends. Steps are logged to `folder`/log.jsonl. Raises
    Blip3oError, and leaves the last saved state alone, when a loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(settings.device)
    network.to(device)
    state, saved = train_state(network, settings, excluded), folder / "state.pt"
    if saved.is_file():
        state.restore(saved, f"Delete {folder} to train this part from the start.")
    if (folder / "log.jsonl").is_file():
        cut_log(folder / "log.jsonl", state.step)
    network.train()
    began, spent = time.perf_counter(), time.process_time()

    def data_of(step: int) -> Any:
        return make_data(seeded(settings.seed * 1_000_003 + step))

    for data in made_ahead(data_of, range(state.step, settings.steps), settings.workers):
        with autocast(settings):
            value, numbers = loss(moved(data, device))
        if not is_finite(value):
            raise Blip3oError(
                f"Step {state.step + 1} of {folder.name} stopped: the loss is {value.item()}. The last good state is "
                f"in {saved}. Lower the learning rates ({settings.lr}, {settings.muon}) or set bf16 to false."
            )
        value.backward()
        norm = float(nn.utils.clip_grad_norm_(state.parameters.values(), settings.clip))
        state.apply_gradients()
        if state.step == 1 or state.step % settings.log_every == 0 or state.step == settings.steps:
            entry = {
                "step": state.step,
                "loss": value.item(),
                **numbers,
                "gradient_norm": norm,
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - spent,
            }
            with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            if report is not None:
                report({"stage": folder.name, **entry})
        if state.step % settings.save_every == 0 or state.step == settings.steps:
            with (
                saving(saved, "Free some space, then run the stage again."),
                atomic_write(saved) as scratch,
                open(scratch, "wb") as file,
            ):
                torch.save(state.state_dict(), file)
    if state.ema is not None:
        state.ema.copy_to_parameters()
    network.to("cpu").eval()


def autocast(settings: FitSettings):
    """The number format of a stage's forward passes, on its device."""
    return torch.autocast(torch.device(settings.device).type, torch.bfloat16) if settings.bf16 else nullcontext()


def moved(data: Any, device: torch.device) -> Any:
    """Tensors, and whatever else knows `to`, on the device, alone or in lists and tuples; the rest as it is."""
    if isinstance(data, list | tuple):
        return type(data)(moved(one, device) for one in data)
    return data.to(device) if hasattr(data, "to") else data


def random_integers(generator: torch.Generator, below: int, count: int) -> list[int]:
    return torch.randint(below, (count,), generator=generator).tolist()
