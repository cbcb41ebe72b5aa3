"""One making of the model: its folder, its share of the steps, and what follows from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...checkpoint import Checkpoint, open_checkpoint
from ...errors import Blip3oError
from ...files import parse_json, read_lines
from ...training.config import TrainingConfig
from ...training.trainer import train as train_jointly
from ...training.watch import Watch
from . import model_config, shards
from .ahead import workers_for
from .assemble import PARTS, assemble
from .loop import FitSettings, Report
from .worlds import whole

_JOINT: dict[str, Any] = {  # settings of the general trainer
    "batch": 48,
    "muon": 10.0,
    "bf16": True,
    "ema_decay": 0.995,
    "warmup": 30,
    "final_lr": 0.02,
    "save_every": 100,
    "log_every": 10,
    "keep": 1,
}


@dataclass(frozen=True)
class Recipe:
    out: Path
    report: Report
    share: float = 1.0  # of the steps of every stage; below 1 no gate stops the recipe
    start: Path | None = None  # a checkpoint whose language model the stage `language` continues
    device: str = "cpu"  # of torch
    longer: int = 0  # steps that a stage trains beyond its own
    stage: str = "start"  # that runs: stages beside each other must not write one folder

    @property
    def log(self) -> Path:
        """The numbers of every stage's gate, in the order in which the stages ended."""
        return self.out / "gates.jsonl"

    @property
    def finished(self) -> list[str]:
        """The stages that ran to their end in this folder, in their order; one that ran twice is there twice."""
        lines = read_lines(self.log) if self.log.is_file() else []
        named = (f"{self.log}, line {number}," for number in range(1, len(lines) + 1))
        return [parse_json(*one, "Remove that line.")["stage"] for one in zip(lines, named, strict=True)]

    @property
    def trainers_device(self) -> Literal["auto", "cpu"]:
        """What the general trainer and GRPO call the device: they find the card themselves."""
        return "cpu" if self.device == "cpu" else "auto"

    @property
    def sizes(self) -> model_config.Sizes:
        return model_config.SECOND_EDITION

    def settings(self, full: FitSettings) -> FitSettings:
        """The settings of a stage for this share of its steps, and for those beyond them."""
        steps, ema_decay = self.steps(full.steps), full.ema_decay
        if ema_decay is not None and self.share < 1:
            ema_decay = max(0.0, 1 - (1 - ema_decay) / self.share)  # a short run must forget its start
        own = {"device": self.device, "workers": workers_for(self.device)}
        warmup = min(full.warmup, steps)  # a longer run has the one that it began with
        return full.replace(steps=steps + self.longer, warmup=warmup, ema_decay=ema_decay, **own)

    def steps(self, full: int) -> int:
        return max(1, round(full * self.share))

    def start_checkpoint(self, aligned: bool = True) -> Checkpoint:
        """A checkpoint of all parts that are trained, the others with their starting values.

        Not `aligned`: with all parts as they were before the stage `align`.
        """
        parts = PARTS if aligned else PARTS[: PARTS.index("align")]
        return open_checkpoint(assemble(self.out, self.out / "start" / self.stage, sizes=self.sizes, parts=parts))

    def data_path(self, name: str) -> Path:
        """A shard folder."""
        return self.out / "data" / name

    def last_checkpoint(self, stage: str) -> Path:
        """The newest checkpoint of a stage of the general trainer. Raises Blip3oError if there is none."""
        found = sorted((self.out / stage).glob("step-*"))
        if not found:
            raise Blip3oError(f"{self.out / stage} contains no checkpoint. Run stage {stage} first.")
        return found[-1]

    def train(self, module, stage: str, *given):
        settings = self.settings(module.SETTINGS)
        return module.train(*given, self.out / stage, settings, self.report, whole(module.WORLD))

    def train_jointly(
        self, stage: str, checkpoint: Path, names: list[str], steps: int, rates: dict[str, float], **changes
    ) -> None:
        """Run the general trainer on the data of these names.

        `rates`: learning rate of each part that is trained. `changes`: of its settings.
        """
        steps = self.steps(steps)
        content = {
            **_JOINT,
            **shards.SETTINGS,
            "checkpoint": str(checkpoint),
            "out": str(self.out / stage),
            "steps": steps + self.longer,
            "data": [str(self.data_path(name)) for name in names],
            "warmup": min(_JOINT["warmup"], steps),
            "train": dict(rates),
            "device": self.trainers_device,
            **changes,
        }
        resume = (self.out / stage).is_dir()
        train_jointly(TrainingConfig(**content), resume, Watch(self.stage_report(stage)))

    def stage_report(self, stage: str) -> Report:
        """A report that names the stage in every entry."""
        return lambda entry: self.report({"stage": stage, **entry})
