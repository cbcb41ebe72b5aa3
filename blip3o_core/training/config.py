"""The settings of one training run, read from YAML and checked before a model loads.

Settings that change the losses are compared on resume (`resume_fingerprint`); folders and intervals are not.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ..compat import TrainingQuirks
from ..settings import (
    BelowOne,
    Count,
    Flag,
    Folder,
    Fraction,
    NotNegative,
    Positive,
    Settings,
    Strict,
    Text,
    Texts,
    Whole,
    load_settings,
)
from .data.order import ROWS
from .joint_model import PARTS


def _part(name: str) -> str:
    if name not in PARTS:
        raise PydanticCustomError("rule", "is not a part of the model", {"known": list(PARTS)})
    return name


# Bounds that no run needs to pass and that keep every number inside what torch and the system can count.
Rate = Annotated[Positive, Field(le=1e6)]
Number = Annotated[Count, Field(le=10**9)]
Interval = Annotated[Whole, Field(le=10**9)]
MOST_IMAGES = 2**20  # of one optimizer step

Part = Annotated[Text, AfterValidator(_part)]
Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Lora(Strict):
    """Adapters on the language model's linear layers, whose own weights then do not change."""

    rank: Annotated[Count, Field(le=4096)] = 16
    alpha: Rate = 16.0  # the adapter's output is multiplied by alpha / rank
    targets: Annotated[tuple[Linear, ...], Field(min_length=1)] = get_args(Linear)
    save: Literal["merged", "adapter"] = "merged"  # into the language model's weights, or apart from them, for peft


class Source(Strict):
    """Where images are, and how often they are used beside those of other sources."""

    path: Folder  # or a file
    weight: Rate | None = None  # its share of the rows is this over the sum of all weights; None: by its size


def _sources(value: Any) -> Any:
    """A path stands for a source without a weight."""
    several = value if isinstance(value, list | tuple) else [value]
    return [{"path": one} if isinstance(one, str) else one for one in several]


class TrainingConfig(Settings):
    guide: ClassVar[str] = "docs/training.md"
    advice: ClassVar[dict[str, str]] = {
        "train": "Give the parts that learn and their learning rates, like {connector: 1.0e-4}. Leave out other parts.",
        "muon": "Leave it out to train with AdamW alone.",
    }

    checkpoint: Folder  # the folder to start from
    out: Folder  # the run's folder: checkpoints, log, samples
    # Folders with items.jsonl, shard folders, .tar shards, or folders of these. One that is named twice counts twice.
    data: Annotated[tuple[Source, ...], BeforeValidator(_sources), Field(min_length=1, max_length=ROWS)]
    # Part -> peak learning rate. Other parts keep their weights.
    train: Annotated[dict[Part, Rate], Field(min_length=1)]
    steps: Number  # optimizer steps
    diffusion_folder: Folder | None = None  # as for `generate`
    batch: Number = 8  # images per process and forward pass
    accumulation: Number = 1  # forward passes per optimizer step
    weight_decay: Annotated[NotNegative, Field(le=1e6)] = 0.0  # on matrices; never on norms and biases
    betas: Annotated[tuple[BelowOne, ...], Field(min_length=2, max_length=2)] = (0.9, 0.95)
    muon: Rate | None = None  # hidden matrices by Muon at this many times their part's rate; None: all by AdamW
    warmup: Interval = 0  # steps until the peak learning rate
    final_lr: Fraction = 0.0  # where the cosine ends, as a share of the peak; 1: no decay
    clip: Annotated[Positive, Field(le=1e30)] = 1.0  # largest norm of the gradient
    condition_dropout: Fraction = 0.1  # share of rows that see the null condition
    all_text: Flag = False  # these four: see compat.TrainingQuirks
    last_positions: Flag = False
    zero_null: Flag = False
    parse_special: Flag = False
    bf16: Flag = False  # autocast; weights and optimizer stay float32
    gradient_checkpointing: Flag = False  # language layers and SANA blocks: a second forward pass instead of memory
    ema_decay: BelowOne | None = None  # when given, checkpoints hold the moving average of the weights
    lora: Lora | None = None
    adapter_only: Flag = False  # checkpoints hold the LoRA alone and no copy of the model
    seed: Annotated[Whole, Field(le=2**63 - 1)] = 0
    image_size: Annotated[Count, Field(le=16384)] | None = (
        None  # side in pixels of the images that the latents are made from; None: the model's
    )
    # Images that are not square: crop to the middle, stretch, or keep their aspect at about image_size^2 pixels.
    fit: Literal["crop", "stretch", "keep"] = "crop"
    cache: Folder | None = None  # folder of encoded images; None: <out>/cache
    cache_images: Flag = True  # false: images are encoded each time they are used, and nothing is kept
    device: Literal["auto", "cpu"] = "auto"
    workers: Annotated[Count, Field(le=256)] = 2  # threads that read and decode the images of the next steps
    log_every: Number = 1
    save_every: Number = 1000
    keep: Number = 2  # checkpoints that are kept, the newest ones
    shard_gb: Annotated[Positive, Field(le=1e6)] = 5.0  # weights above this size are written in several files
    sample_every: Interval = 0  # 0: never
    sample_prompts: Texts = ()
    sample_steps: Annotated[Count, Field(le=1000)] = 20
    sample_guidance: Annotated[NotNegative, Field(le=1000)] = 2.0

    def conflicts(self) -> Iterator[str]:
        if self.batch * self.accumulation > MOST_IMAGES:
            yield (
                f"batch x accumulation is {self.batch * self.accumulation:,} images for each step; it must be "
                f"{MOST_IMAGES:,} or less."
            )
        if len({one.weight is None for one in self.data}) > 1:
            one = next(one for one in self.data if one.weight is None)
            yield f"data gives weights, but {one.path} has none. Give every source a weight, or none of them."
        if self.cache and not self.cache_images:
            yield f"cache is {self.cache}, but cache_images is false. Leave cache out, or set cache_images to true."
        if self.warmup > self.steps:
            yield f"warmup is {self.warmup}; it must not exceed steps ({self.steps})."
        if self.lora is not None and "language" not in self.train:
            yield "lora adapts the language model, but train does not name language. Add train.language."
        if self.adapter_only and self.lora is None:
            yield "adapter_only is true, but there is no lora to save. Add lora, or set adapter_only to false."
        elif self.adapter_only and (others := sorted(self.train.keys() - {"language"})):
            yield (
                f"adapter_only is true, but train names {others[0]}, which would not be saved. Leave it out, or set "
                "adapter_only to false."
            )
        if self.sample_every and not self.sample_prompts:
            yield f"sample_every is {self.sample_every}, but sample_prompts is empty. Add prompts, or set it to 0."

    @property
    def quirks(self) -> TrainingQuirks:
        return TrainingQuirks(self.all_text, self.last_positions, self.zero_null, self.parse_special)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the sources of `data`."""
        return tuple(one.path for one in self.data)

    @property
    def weights(self) -> list[float] | None:
        """Of the sources of `data`; None where they are mixed by their sizes."""
        found = [one.weight for one in self.data if one.weight is not None]
        return found or None

    @property
    def cache_folder(self) -> Path | None:
        """Where encoded images are kept; None: nowhere."""
        if not self.cache_images:
            return None
        return Path(self.cache) if self.cache else Path(self.out) / "cache"

    def resume_fingerprint(self, processes: int) -> dict:
        """All settings that decide the losses. A batch may be divided otherwise between processes and microbatches."""
        free = (
            "checkpoint", "diffusion_folder", "out", "data", "steps", "batch", "accumulation", "cache", "cache_images",
            "device", "workers", "log_every", "save_every", "keep", "shard_gb", "adapter_only",
            "gradient_checkpointing",
        )  # fmt: skip
        kept = {
            name: value
            for name, value in self.model_dump().items()
            if name not in free and not name.startswith("sample")
        }
        return {**kept, "weights": self.weights, "images per step": self.batch * self.accumulation * processes}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The YAML file with `key=value` words over it. Raises Blip3oError with all faults at once."""
    return load_settings(TrainingConfig, path, overrides)
