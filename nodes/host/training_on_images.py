"""A LoRA for the language model on the wire, trained on images with captions from the shards of a curation."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...blip3o_core.training.run_folder import RunFolder
from .. import requirements
from . import curated, lora_files, notes, training_run
from .language import Language
from .lora import add_lora
from .training_log import LossLog

PACKAGES = ("accelerate", "peft", "pydantic", "tensorboard", "yaml")  # of train
SAMPLES = 4  # images that the node shows, of captions from the shards
LOOKS = 4  # how often it shows new ones, at least where there are as many steps
TOGETHER = {True: 16, False: 2}  # images in a pass; True: of the bundled model
SAVE_EVERY = 25  # steps
FIRST = 10  # steps whose mean loss is told


@dataclass(frozen=True)
class Request:
    """The node's inputs."""

    shards: str
    file_name: str
    steps: int
    batch: int
    learning_rate: float
    rank: int
    seed: int


class ImagesRun(training_run.Run):
    COMMAND, ADVICE = "train", "set batch lower"
    log: LossLog

    def adapter(self) -> Path | None:
        last = RunFolder(self.folder / "run").last
        return None if last is None else last / "adapter"


def train(lm: Language, request: Request) -> tuple[Language, str, dict]:
    """As `training.train`, without a reward."""
    requirements.check_extras("Training", PACKAGES, "train")
    training_run.check(lm, request.file_name)
    shards = curated.shards(request.shards)
    folder = training_run.new_folder()
    run = ImagesRun(folder, LossLog(folder / "run", request.steps))
    name = run.train(_settings(lm, request, folder, shards.folder, _captions(shards)), request.file_name)
    _tell(run, name, len(shards), request.batch)
    return add_lora(lm, lora_files.resolve(name), 1.0), name, run.shown()


def _captions(shards: curated.ShardFolder) -> list[str]:
    """The first captions of the shards, each once. An instruction without its reference would be none."""
    found: dict[str, None] = {}
    for number in range(len(shards)):
        record = shards.read(*shards.find(number)).record
        if record.texts and not record.references:
            found[record.texts[0]] = None
        if len(found) == SAMPLES or number == 100 * SAMPLES:
            break
    return list(found)


def _settings(lm: Language, request: Request, folder: Path, shards: Path, captions: list[str]) -> dict[str, Any]:
    together = max(n for n in range(1, TOGETHER[lm.is_bundled] + 1) if request.batch % n == 0)
    return {
        **training_run.settings(lm, folder, request.rank),
        "data": str(shards), "train": {"language": request.learning_rate}, "steps": request.steps,
        "batch": together, "accumulation": request.batch // together, "warmup": min(10, request.steps // 10),
        "condition_dropout": 0.0,  # the null condition does not pass through the LoRA
        "seed": request.seed, "save_every": SAVE_EVERY, "keep": 1,
        "sample_every": max(1, request.steps // LOOKS) if captions else 0, "sample_prompts": captions,
    }  # fmt: skip


def _tell(run: ImagesRun, name: str, images: int, batch: int) -> None:
    means = run.log.means
    average = f"Loss {means[min(len(means), FIRST) - 1][1]:.3g} in the first steps, {means[-1][1]:.3g} in the last."
    times = run.log.steps * batch / images
    seen = f"{images:,} images, each seen {times:.3g} times." if images > 1 else f"One image, seen {times:.3g} times."
    notes.tell([f"Saved as models/loras/{name}. {average} {seen}"], logging.INFO)
