"""One LoRA file for the language model: which weights it changes, and by how much.

Read are the files that peft writes, with `adapter_config.json` beside them, and single files that carry their alphas.
Every tensor must fit a weight of the model: a LoRA that is applied in part gives images that nobody can explain.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import is_finite
from ..errors import Blip3oError, shown
from ..files import read_optional_json
from .digest import digest_of
from .names import LANGUAGE_PREFIXES, REFERENCE_CONNECTOR
from .safetensors_file import EIGHT_BITS, FLOATS, TensorEntry, TensorIndex, open_unchanged, read_header

FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MOST_RANK = 4096  # as in training; more would be no smaller than the model
_UP, _DOWN, _ALPHA = "up", "down", "alpha"
# How the names of a LoRA's tensors end, and what they are. An embedding's two factors are stored turned.
_ENDS = {
    ".lora_A.weight": _DOWN, ".lora_B.weight": _UP, ".lora_A.default.weight": _DOWN, ".lora_B.default.weight": _UP,
    ".lora_embedding_A": _UP, ".lora_embedding_B": _DOWN, ".lora_embedding_A.default": _UP,
    ".lora_embedding_B.default": _DOWN, ".lora_down.weight": _DOWN, ".lora_up.weight": _UP,
    ".lora.down.weight": _DOWN, ".lora.up.weight": _UP, ".lora_A": _DOWN, ".lora_B": _UP, ".alpha": _ALPHA,
}  # fmt: skip
_TURNED = ".lora_embedding_"
_PREFIXES = ("base_model.model.", "text_encoders.", "")  # of peft, of ComfyUI
_UNDERSCORED = "lora_te_"  # kohya: dots are underscores
_DIFFUSION = ("diffusion_model.", "transformer.", "unet.", "lora_unet_")
_OTHER_KINDS = {
    "lora_magnitude_vector": "DoRA", "dora_scale": "DoRA", "hada_": "LoHa", "lokr_": "LoKr", "oft_": "OFT",
    ".vera_": "VeRA", "ia3_l": "IA3",
}  # fmt: skip
# Starts of training after which peft keeps a part of the model's own weights in the adapter.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LowRank:
    """A change of one matrix: scale * up @ down, (out, r) and (r, in)."""

    up: torch.Tensor
    down: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Lora:
    """What a file changes, by the names of the language model's weights.

    `digest`: equal only for files that change the same by the same. `scale`: in words, where it comes from.
    """

    changes: dict[str, LowRank]
    digest: str
    scale: str

    def identity(self, strength: float) -> str:
        """Of the change at a strength; what names the weights of a model, with those of other LoRAs in their order."""
        return f"{self.digest}x{float(strength)!r}"

    @property
    def summary(self) -> str:
        ranks = sorted({change.down.shape[0] for change in self.changes.values()})
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        return f"{len(self.changes)} matrices, rank {rank}, {self.scale}"


def language_matrices(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The weights of a LanguageModel that a LoRA may change, with their shapes (out, in)."""
    # The connector for reference latents runs beside the diffusion transformer.
    prefixes = tuple(prefix for prefix in LANGUAGE_PREFIXES if prefix != REFERENCE_CONNECTOR)
    return {
        name: tuple(parameter.shape)
        for name, parameter in network.named_parameters()
        if parameter.ndim == 2 and name.startswith(prefixes)
    }


def read_lora(path: Path, matrices: Mapping[str, Sequence[int]]) -> Lora:
    """The LoRA in a file, or in the folder that peft made. `matrices`: see `language_matrices`.

    Raises Blip3oError, before any tensor is read, unless each of them belongs to one of these weights and fits it.
    """
    file = path / FILE if path.is_dir() else path
    index = read_header(file)
    if not index:
        raise Blip3oError(f"{shown(file)} contains no tensors. Choose another LoRA.")
    config = _config(file)
    found = _by_weight(file, index, matrices)
    for name, parts in found.items():
        _check_shapes(file, name, parts, tuple(matrices[name]))
    _check_rank(file, config, found)
    scales, words = _scales(file, config, found)
    first = next(iter(index.values()))
    changes = {}
    with open_unchanged(first) as reader:
        for name, parts in found.items():
            up, down = (_turned(parts[role], reader.read(parts[role])) for role in (_UP, _DOWN))
            for role, tensor in ((_UP, up), (_DOWN, down)):
                if not is_finite(tensor):
                    raise Blip3oError(
                        f"{shown(parts[role].name)} in {shown(file)} contains NaN or infinite values. Its training "
                        "failed: choose an earlier step of it."
                    )
            changes[name] = LowRank(up, down, scales[name])
    facts = json.dumps([digest_of(index), sorted(scales.items())])
    return Lora(changes, hashlib.sha256(facts.encode()).hexdigest()[:32], words)


@torch.no_grad()
def merge_lora(network: nn.Module, lora: Lora, strength: float) -> None:
    """Add a LoRA to the weights of a LanguageModel, in place."""
    for name, change in lora.changes.items():
        weight = network.get_parameter(name)
        up, down = (factor.to(weight.device, torch.float32) for factor in (change.up, change.down))
        weight.copy_(weight.float() + up @ down * (change.scale * strength))


def _config(file: Path) -> dict:
    """peft's settings beside a file; {} without them. Raises Blip3oError for what is no plain LoRA."""
    path = file.with_name(CONFIG)
    alone = file.name == FILE or len(list(file.parent.glob("*.safetensors"))) == 1
    config = read_optional_json(path, "Copy it again from where the LoRA came from.") if alone else {}
    if not config:
        return {}
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights")
    reason = None
    if kind != "LORA":
        reason = f"the adapter is {shown(repr(kind), 40)}, not LORA"
    elif config.get("use_dora"):
        reason = "the adapter is DoRA (use_dora)"
    elif config.get("fan_in_fan_out"):
        reason = "its matrices are stored turned (fan_in_fan_out)"
    elif not any(start is plain or start == plain for plain in _PLAIN_STARTS):
        reason = f"init_lora_weights {shown(repr(start), 40)} also changed the model's own weights in training"
    if reason:
        raise Blip3oError(
            f"{shown(path)} says that {reason}. Only plain LoRA can be added to the weights. Merge this adapter into "
            "its model with peft, and load the merged checkpoint."
        )
    alpha, rank = config.get("lora_alpha"), config.get("r")
    patterns = config.get("alpha_pattern") or {}
    plain = isinstance(patterns, dict) and all(re.fullmatch(r"[\w.]+", name) for name in patterns)
    numbers = [alpha, *(patterns.values() if plain else [])]
    if not plain or not all(_is_number(each) for each in numbers) or not isinstance(rank, int) or rank < 1:
        raise Blip3oError(
            f"{shown(path)} does not say how strongly the LoRA acts: lora_alpha is {shown(repr(alpha), 40)}, r is "
            f"{shown(repr(rank), 40)}, alpha_pattern is {shown(patterns, 80)}. Copy the file again from where the LoRA "
            "came from."
        )
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _by_weight(file: Path, index: TensorIndex, matrices: Mapping) -> dict[str, dict[str, TensorEntry]]:
    """Name of a weight -> the tensors of its change."""
    found: dict[str, dict[str, TensorEntry]] = {}
    strange, homeless = [], []
    short = {name.removesuffix(".weight").replace(".", "_"): name for name in matrices}
    for name, entry in index.items():
        end = next((end for end in _ENDS if name.endswith(end)), None)
        if end is None:
            strange.append(name)
            continue
        weight = _weight_of(name.removesuffix(end), matrices, short)
        if weight is None:
            homeless.append(name)
            continue
        own = found.setdefault(weight, {})
        if _ENDS[end] in own:
            raise Blip3oError(
                f"{shown(file)} changes {weight} twice: by {shown(own[_ENDS[end]].name)} and by {shown(name)}. Choose "
                "another LoRA."
            )
        own[_ENDS[end]] = entry
    if homeless or strange:
        raise _misfit(file, homeless, strange, len(index), matrices)
    for weight, own in found.items():
        missing = {_UP, _DOWN} - own.keys()
        if missing:
            raise Blip3oError(
                f"{shown(file)} contains only a part of the change of {weight}: its {missing.pop()} matrix is missing. "
                "The file is damaged. Copy it again."
            )
    return found


def _weight_of(layer: str, matrices: Mapping, short: Mapping[str, str]) -> str | None:
    if layer.startswith(_UNDERSCORED):
        name = layer.removeprefix(_UNDERSCORED)
        return short.get(name) or short.get(f"model_{name}")
    for prefix in _PREFIXES:
        if layer.startswith(prefix):
            name = layer.removeprefix(prefix)
            # peft's names lack the first `model` where it trained the model without its head.
            return next((each for each in (f"{name}.weight", f"model.{name}.weight") if each in matrices), None)
    return None


def _misfit(file: Path, homeless: list[str], strange: list[str], total: int, matrices: Mapping) -> Blip3oError:
    first = (homeless or strange)[0]
    count = f"{len(homeless) + len(strange)} of its {total} tensors fit no weight of this language model"
    begin = f"{shown(file)}: {count}, first {shown(first)}."
    kind = next((kind for mark, kind in _OTHER_KINDS.items() if any(mark in name for name in strange)), None)
    layers = [int(at[1]) for at in (re.search(r"layers[._](\d{1,6})[._]", name) for name in homeless) if at]
    own = [int(at[1]) for at in (re.search(r"layers\.(\d+)\.", name) for name in matrices) if at]
    if any(name.startswith(_DIFFUSION) or "transformer_blocks" in name for name in homeless + strange):
        return Blip3oError(
            f"{begin} It is a LoRA for a diffusion model. Connect LoraLoaderModelOnly to the model output of BLIP3o "
            "Loader instead, if it was made for this checkpoint."
        )
    if kind:
        return Blip3oError(f"{begin} It is a {kind} file. Only plain LoRA can be loaded here.")
    if layers and own and max(layers) > max(own):
        return Blip3oError(
            f"{begin} It was made for a model with at least {max(layers) + 1} layers; this one has {max(own) + 1}. "
            "Choose a LoRA that was made for this checkpoint."
        )
    if strange:
        return Blip3oError(
            f"{begin} It is not a part of a LoRA: whole layers (modules_to_save) and biases cannot be added. Merge the "
            "adapter into its model with peft, and load the merged checkpoint."
        )
    return Blip3oError(f"{begin} Choose a LoRA that was made for this checkpoint's language model.")


def _check_shapes(file: Path, name: str, parts: dict[str, TensorEntry], shape: tuple[int, ...]) -> None:
    for entry in parts.values():
        if entry is not parts.get(_ALPHA) and entry.dtype not in (*FLOATS, *EIGHT_BITS):
            raise Blip3oError(
                f"{shown(entry.name)} in {shown(file)} is {entry.dtype}. A LoRA has floating-point numbers. Choose "
                "another file."
            )
    alpha = parts.get(_ALPHA)
    if alpha is not None and alpha.count != 1:
        raise Blip3oError(
            f"{shown(alpha.name)} in {shown(file)} has {alpha.count:,} numbers, not 1. Copy the file again."
        )
    up, down = (_turned_shape(parts[role]) for role in (_UP, _DOWN))
    if len(up) != 2 or len(down) != 2 or up[1] != down[0] or up[1] == 0:
        raise Blip3oError(
            f"The change of {name} in {shown(file)} cannot be multiplied: {_UP} is {list(up)}, {_DOWN} is "
            f"{list(down)}. The file is damaged or is not a plain LoRA. Copy it again."
        )
    if up[1] > max(MOST_RANK, *shape):
        raise Blip3oError(
            f"The change of {name} in {shown(file)} has rank {up[1]:,}, for a matrix of {shape[0]} x {shape[1]}. The "
            "file is not a LoRA. Choose another one."
        )
    if (up[0], down[1]) != shape:
        raise Blip3oError(
            f"{shown(file)} was made for another model: it changes {name} as {up[0]} x {down[1]}, but this one has "
            f"{shape[0]} x {shape[1]}. Choose a LoRA that was made for this checkpoint's language model."
        )


def _turned_shape(entry: TensorEntry) -> tuple[int, ...]:
    return entry.shape[::-1] if _TURNED in entry.name else entry.shape


def _turned(entry: TensorEntry, tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.T.contiguous() if _TURNED in entry.name else tensor
    return tensor.to(torch.bfloat16) if entry.dtype in EIGHT_BITS else tensor


def _check_rank(file: Path, config: dict, found: dict[str, dict[str, TensorEntry]]) -> None:
    if not config or config.get("rank_pattern"):
        return
    for name, parts in found.items():
        rank = _turned_shape(parts[_DOWN])[0]
        if rank != config["r"]:
            raise Blip3oError(
                f"{shown(file.with_name(CONFIG))} belongs to another LoRA: it says r {config['r']}, but the change of "
                f"{name} in {file.name} has rank {rank}. Put the right file there."
            )


def _scales(file: Path, config: dict, found: dict[str, dict[str, TensorEntry]]) -> tuple[dict[str, float], str]:
    """By what each change is multiplied at strength 1, and in words where that comes from."""
    scales, sources = {}, set()
    root = math.sqrt if config.get("use_rslora") else float
    for name, parts in found.items():
        rank = _turned_shape(parts[_DOWN])[0]
        if _ALPHA in parts:
            alpha = _number_in(parts[_ALPHA])
            scales[name] = alpha / rank
            sources.add("alpha in the file")
        elif config:
            scales[name] = _alpha_of(name, config) / root(rank)
            sources.add(f"lora_alpha in {CONFIG}")
        else:
            scales[name] = 1.0
            sources.add(f"no alpha and no {CONFIG} found")
    low, high = min(scales.values()), max(scales.values())
    numbers = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return scales, f"scale {numbers} ({'; '.join(sorted(sources))})"


def _alpha_of(weight: str, config: dict) -> float:
    layer = weight.removesuffix(".weight")
    for name, alpha in (config.get("alpha_pattern") or {}).items():
        if layer == name or layer.endswith(f".{name}"):
            return float(alpha)
    return float(config["lora_alpha"])


def _number_in(entry: TensorEntry) -> float:
    with open_unchanged(entry) as reader:
        value = float(reader.read(entry))
    if not math.isfinite(value):
        raise Blip3oError(f"{shown(entry.name)} in {shown(entry.file)} is {value}. Copy the file again.")
    return value
