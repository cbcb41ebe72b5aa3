"""The stages in order: what each needs, what it writes, and the gate behind it.

    autoencoder  image_tokenizer        the two encoders; need nothing
    language                            needs nothing either: codes are known from the scenes
    renderer                            needs the autoencoder
    connector  data  joint              need all of them; from here on the general trainer does the work
    instruct  edit  grpo                each starts from the stage before
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ...checkpoint import Checkpoint, open_checkpoint
from ...errors import Blip3oError
from ...image_tokenizer import PREFIX
from ...layout import VAE
from ...training.config import config_from
from ...training.loop import train as train_jointly
from ..world import EDIT, World
from . import autoencoder, connector, data, image_tokenizer, language, renderer
from .assemble import assemble, save_part
from .loop import Report

# The joint stages' world: what the first evaluation found weakest is drawn most often.
WORLD = language.WORLD
EDITS = World(low_contrast=False, coloured=0.35)
_RATES = {"language": 3e-4, "connector": 1e-3, "sana": 6e-4}
_SETTINGS = {
    "batch": 48, "muon": 10.0, "bf16": True, "ema_decay": 0.995, "warmup": 30, "final_lr": 0.02, "device": "cpu",
    "save_every": 100, "log_every": 10, "keep": 1, "train": _RATES,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    run: Callable[[Path, Report], None]
    gate: Callable[[Path], dict[str, float]]
    key: str = "mean"  # what of the gate's numbers must reach `least`
    least: float = 0.0


def start(out: Path) -> Checkpoint:
    """All parts that are ready, the rest at their start."""
    return open_checkpoint(assemble(out, out / "start"))


def _autoencoder(out: Path, report: Report) -> None:
    network = autoencoder.train(out / "autoencoder", report=report)
    tensors = {VAE + name: tensor for name, tensor in network.state_dict().items()}
    save_part(out, "autoencoder", tensors, {"scaling_factor": str(network.config.scaling_factor)})


def _image_tokenizer(out: Path, report: Report) -> None:
    network = image_tokenizer.train(out / "image_tokenizer", report=report)
    tensors = {PREFIX + name: tensor for name, tensor in image_tokenizer.tensors(network).items()}
    save_part(out, "image_tokenizer", tensors)


def _language(out: Path, report: Report) -> None:
    model = language.train(start(out), out / "language", report=report)
    save_part(out, "language", language.tensors(model))


def _renderer(out: Path, report: Report) -> None:
    transformer = renderer.train(start(out), out / "renderer", report=report)
    save_part(out, "renderer", renderer.tensors(transformer))


def _connector(out: Path, report: Report) -> None:
    save_part(out, "connector", connector.tensors(connector.train(start(out), out / "connector", report=report)))


def _data(out: Path, report: Report) -> None:
    checkpoint = start(out)
    data.pack_scenes(checkpoint, out / "data" / "captions.safetensors", 11, 36_000, WORLD, (True, True, False))
    data.pack_scenes(checkpoint, out / "data" / "phrasings.safetensors", 12, 12_000, WORLD, (False,) * 6)
    data.pack_edits(checkpoint, out / "data" / "edits.safetensors", 13, 16_000, EDITS)


def last_checkpoint(out: Path, stage: str) -> Path:
    """The newest checkpoint of a stage of the general trainer. Raises Blip3oError when there is none."""
    found = sorted((out / stage).glob("step-*"))
    if not found:
        raise Blip3oError(f"{out / stage} holds no checkpoint. Run the stage {stage} first.")
    return found[-1]


def _jointly(stage: str, out: Path, report: Report, checkpoint: Path, files: list[str], **settings) -> None:
    content = {**_SETTINGS, "checkpoint": str(checkpoint), "out": str(out / stage),
               "data": [str(out / "data" / f"{name}.safetensors") for name in files], **settings}  # fmt: skip
    train_jointly(config_from(content), resume=(out / stage).is_dir(), report=lambda e: report({"stage": stage, **e}))


def _joint(out: Path, report: Report) -> None:
    start(out)
    _jointly("joint", out, report, out / "start", ["captions"], steps=1200)


def _instruct(out: Path, report: Report) -> None:
    rates = {part: rate / 3 for part, rate in _RATES.items()}
    _jointly("instruct", out, report, last_checkpoint(out, "joint"), ["phrasings"], steps=250, train=rates, seed=1)


STAGES = {
    "autoencoder": Stage(_autoencoder, lambda out: autoencoder.gate(start(out).load_autoencoder()), least=0.97),
    "image_tokenizer": Stage(
        _image_tokenizer, lambda out: image_tokenizer.gate(start(out).load_image_tokenizer()), "patches", 0.98
    ),
    "language": Stage(_language, lambda out: language.gate(start(out), start(out).load_language()), least=0.8),
    "renderer": Stage(_renderer, lambda out: renderer.gate(start(out), start(out).load_transformer()), least=0.9),
    "connector": Stage(_connector, lambda out: {}, ""),
}


def run(stage: str, out: Path, report: Report) -> dict[str, float]:
    """Train one stage, or go on where it was cut off, and measure its gate -> the gate's numbers.

    Raises Blip3oError when the gate is missed: what follows would build on sand.
    """
    if stage not in STAGES:
        raise Blip3oError(f"There is no stage {stage!r}. The stages are {', '.join(STAGES)}.")
    chosen, cpu, wall = STAGES[stage], time.process_time(), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    chosen.run(out, report)
    numbers = {"cpu_minutes": (time.process_time() - cpu) / 60, "minutes": (time.perf_counter() - wall) / 60}
    with torch.random.fork_rng(devices=[]):
        numbers |= chosen.gate(out)
    with open(out / "gates.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps({"stage": stage, **numbers}) + "\n")
    if chosen.key and numbers[chosen.key] < chosen.least:
        raise Blip3oError(
            f"The gate behind {stage} wants {chosen.key} {chosen.least:.2f}, it is {numbers[chosen.key]:.3f}. "
            "Train the stage longer before the next one."
        )
    return numbers
