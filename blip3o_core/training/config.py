"""The settings of one training run: one frozen dataclass, read from YAML, every value checked before a model loads.

Settings that change the losses are compared on resume (`resume_fingerprint`); folders and intervals are not.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from ..compat import TrainingQuirks
from ..errors import Blip3oError
from .joint_model import PARTS

_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """Adapters on the language model's linear layers; its own weights then stay as they are."""

    rank: int = 16
    alpha: float = 16.0  # the adapter counts alpha / rank times
    targets: tuple[str, ...] = _LINEARS
    save: str = "merged"  # into the language model's weights, or 'adapter': beside them, for peft

    def __post_init__(self):
        _check(self.rank >= 1, "lora.rank", self.rank, "must be 1 or more")
        _check(0 < self.alpha < math.inf, "lora.alpha", self.alpha, "must be above 0")
        wrong = [name for name in self.targets if name not in _LINEARS]
        _check(self.targets and not wrong, "lora.targets", self.targets, f"must be some of {', '.join(_LINEARS)}")
        _check(self.save in ("merged", "adapter"), "lora.save", self.save, "must be 'merged' or 'adapter'")


@dataclass(frozen=True)
class TrainingConfig:
    checkpoint: str  # the folder to start from
    out: str  # the run's folder: checkpoints, log, samples
    data: tuple[str, ...]  # folders with items.jsonl, .tar shards, or folders of shards; one named twice counts twice
    train: dict[str, float]  # part -> peak learning rate; parts that are not named stay as they are
    steps: int  # optimizer steps
    diffusion_folder: str | None = None  # as for `generate`
    batch: int = 8  # pictures per process and forward pass
    accumulation: int = 1  # forward passes per optimizer step
    weight_decay: float = 0.0  # on matrices; never on norms and biases
    betas: tuple[float, ...] = (0.9, 0.95)
    muon: float | None = None  # hidden matrices by Muon at this many times their part's rate; None: all by AdamW
    warmup: int = 0  # steps until the peak learning rate
    final_lr: float = 0.0  # where the cosine ends, as a fraction of the peak; 1: no decay
    clip: float = 1.0  # largest norm of the gradient
    condition_dropout: float = 0.1  # share of rows that see the null condition
    all_text: bool = False  # the authors' labels: prompts too
    last_positions: bool = False  # the authors' condition: the last positions of the padded row
    zero_null: bool = False  # the authors' edits: the null condition is zeros behind the connectors
    bf16: bool = False  # autocast; weights and optimizer stay float32
    gradient_checkpointing: bool = False  # language layers and SANA blocks: a second forward pass instead of memory
    ema_decay: float | None = None  # average of the weights; when given, it is what checkpoints hold
    lora: Lora | None = None
    seed: int = 0
    image_size: int | None = None  # side of the pictures the latents are made of, in pixels; None: the model's own
    fit: str = "crop"  # pictures that are no squares: 'crop' to the middle, or 'stretch'
    cache: str | None = None  # encoded pictures; None: <out>/cache
    device: str = "auto"  # or 'cpu'
    log_every: int = 1
    save_every: int = 1000
    keep: int = 2  # checkpoints that are kept, the newest ones
    shard_gb: float = 5.0  # weights above this size are written in several files
    sample_every: int = 0  # 0: never
    sample_prompts: tuple[str, ...] = ()
    sample_steps: int = 20
    sample_guidance: float = 2.0

    def __post_init__(self):
        for name in ("steps", "batch", "accumulation", "log_every", "save_every", "keep", "sample_steps"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "must be 1 or more")
        for name in ("warmup", "sample_every", "weight_decay", "seed", "sample_guidance"):
            _check(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "must be 0 or more")
        for name in ("clip", "shard_gb"):
            _check(0 < getattr(self, name) < math.inf, name, getattr(self, name), "must be above 0")
        for name in ("condition_dropout", "final_lr"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "must be from 0 to 1")
        for name in ("checkpoint", "out", "data"):
            _check(getattr(self, name) and all(getattr(self, name)), name, getattr(self, name), "must not be empty")
        muon = self.muon is None or 0 < self.muon < math.inf
        _check(muon, "muon", self.muon, "must be above 0; leave it out for AdamW alone")
        _check(self.ema_decay is None or 0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must be in [0, 1)")
        betas = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _check(betas, "betas", self.betas, "must be two numbers in [0, 1)")
        _check(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "must be 1 or more")
        _check(self.fit in ("crop", "stretch"), "fit", self.fit, "must be 'crop' or 'stretch'")
        _check(self.device in ("auto", "cpu"), "device", self.device, "must be 'auto' or 'cpu'")
        _check(self.warmup <= self.steps, "warmup", self.warmup, f"must not exceed steps ({self.steps})")
        _check(self.train, "train", self.train, f"must name a part, like {{connector: 1.0e-4}}: {', '.join(PARTS)}")
        for part, lr in self.train.items():
            _known(part, PARTS, "train names the part")
            _check(0 < lr < math.inf, f"train.{part}", lr, "must be above 0; leave a part out to keep it as it is")
        if self.lora is not None and "language" not in self.train:
            raise Blip3oError("lora is given, but `train` does not name language, which it adapts. Add train.language.")
        if self.sample_every and not self.sample_prompts:
            raise Blip3oError(f"sample_every is {self.sample_every}, but sample_prompts is empty. Give some prompts.")

    @property
    def quirks(self) -> TrainingQuirks:
        return TrainingQuirks(self.all_text, self.last_positions, self.zero_null)

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache) if self.cache else Path(self.out) / "cache"

    def resume_fingerprint(self, processes: int) -> dict:
        """Everything that decides the losses; a batch may be divided otherwise between processes and passes."""
        free = ("checkpoint", "diffusion_folder", "out", "data", "steps", "batch", "accumulation", "cache", "device",
                "log_every", "save_every", "keep", "shard_gb", "gradient_checkpointing")  # fmt: skip
        kept = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in free and not name.startswith("sample")
        }
        return {**kept, "images per step": self.batch * self.accumulation * processes}


def load_config(path: str | Path, overrides: list[str] = ()) -> TrainingConfig:
    """The YAML file with `key=value` words on top (`train.connector=1e-4` reaches inside). Raises Blip3oError."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Blip3oError(f"{path} cannot be read as YAML: {error}. See docs/training.md for an example.") from error
    if not isinstance(content, dict):
        raise Blip3oError(f"{path} holds no settings: write `name: value` lines. See docs/training.md for an example.")
    for word in overrides:
        name, equals, text = word.partition("=")
        if not equals:
            raise Blip3oError(f"{word!r} is no setting: write key=value, like steps=100.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise Blip3oError(f"{word!r} cannot be read: {text!r} is no YAML value. Quote it.") from error
        name, dot, inner = name.partition(".")
        if dot:
            outer = content.get(name)
            content[name] = {**(outer if isinstance(outer, dict) else {}), inner: value}
        else:
            content[name] = value
    return config_from(content)


def config_from(content: dict) -> TrainingConfig:
    """Plain YAML values -> TrainingConfig. Unknown names are refused with the nearest known one."""
    values = _typed(TrainingConfig, content, "")
    if isinstance(values.get("lora"), dict):
        values["lora"] = Lora(**_typed(Lora, values["lora"], "lora."))
    return TrainingConfig(**values)


def _typed(kind, content: dict, prefix: str) -> dict:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in content:
        _known(name, fields, f"setting {prefix.rstrip('.')}".rstrip())
    missing = [
        n for n, f in fields.items()
        if n not in content and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise Blip3oError(f"The configuration lacks {', '.join(missing)}. See docs/training.md for an example.")
    return {name: _value(prefix + name, fields[name].type, value) for name, value in content.items()}


def _value(name: str, kind, value):
    """`value` as the field's type; numbers may be spelt 1e-4, which YAML reads as text."""
    text = str(kind)
    if value is None:
        _check("None" in text, name, value, "must have a value")
        return None
    if kind is bool:
        _check(isinstance(value, bool), name, value, "must be true or false")
    elif text.startswith(("tuple", "<class 'tuple")) or "tuple" in text:
        one = float if "float" in text else str
        value = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(name, one, item) for item in value)
    elif "dict" in text:
        _check(isinstance(value, dict), name, value, "must be a mapping, like {connector: 1.0e-4}")
        return {str(key): _value(f"{name}.{key}", float, item) for key, item in value.items()}
    elif "Lora" in text:
        _check(isinstance(value, dict), name, value, "must be a mapping, like {rank: 16}")
    elif "float" in text:
        return _number(name, value)
    elif "int" in text:
        number = _number(name, value)
        _check(number == int(number) if math.isfinite(number) else False, name, value, "must be a whole number")
        return int(number)
    else:
        _check(isinstance(value, str), name, value, "must be text")
    return value


def _number(name: str, value) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise Blip3oError(f"{name} is {value!r}; it must be a number.") from None


def _known(name, known, what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), list(known), 1, 0.3)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
        raise Blip3oError(f"{what} {name!r} is not known. {hint}")


def _check(right, name: str, value, reason: str) -> None:
    # Callers write conditions so that NaN fails.
    if not right:
        raise Blip3oError(f"{name} is {value!r}; it {reason}.")
