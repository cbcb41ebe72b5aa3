"""The tensors of a checkpoint folder: which file holds which, and how they reach a network built on the meta device.

- Tensors are read and converted window by window: the peak is the loaded weights plus a window.
- Nothing is assigned before names, shapes and values of the whole part are known to be right.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..checks import is_finite
from ..errors import Blip3oError, bullet_list, shown
from ..files import open_regular, read_json
from .safetensors_file import (
    DTYPES,
    EIGHT_BITS,
    FLOATS,
    TensorEntry,
    TensorIndex,
    open_unchanged,
    read_header,
)

# What the networks compute in, by the names that users read. The diffusion transformer and the autoencoder overflow in
# float16.
COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def read_index(folder: Path, stem: str = "model") -> TensorIndex:
    """The tensors of `<stem>.safetensors`, or of the shards that `<stem>.safetensors.index.json` lists.

    Reads headers only. The single file comes first, as in the libraries that write them: an index beside it is left
    over. Raises Blip3oError when files are missing or damaged.
    """
    listing, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if os.path.lexists(single):
        return _unquantised(folder, read_header(single))
    if not os.path.lexists(listing):
        raise Blip3oError(
            f"{folder} has no weights: neither {single.name} nor {listing.name} is in it. {_what_is_there(folder)}"
        )
    return _unquantised(folder, _read_shards(folder, listing))


def _read_shards(folder: Path, listing: Path) -> TensorIndex:
    again = "Download all .safetensors files and the index again."
    weight_map = read_json(listing).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Blip3oError(f"{listing} lists no files under 'weight_map'. {again}")
    wrong = [name for name in weight_map.values() if not _is_file_name(name)]
    if wrong:
        raise Blip3oError(
            f"{listing} lists {shown(repr(wrong[0]))}, which is not the name of a file in {folder}. {again}"
        )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not os.path.lexists(folder / name)]
    if missing:
        listed = ", ".join(map(shown, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise Blip3oError(
            f"{listing} lists {len(names)} files, and {len(missing)} of them are missing: {listed}. Download them into "
            f"{folder}."
        )
    index: TensorIndex = {}
    for file in names:
        for name, entry in read_header(folder / file).items():
            # A tensor may lie in two files, as after a merge by hand. The index says which one counts.
            if weight_map.get(name, file) != file:
                continue
            if name in index:
                raise Blip3oError(f"{shown(name)} is in {index[name].file.name} and in {file}. {again}")
            index[name] = entry
    lost = [name for name in weight_map if name not in index]
    if lost:
        where = f"{shown(lost[0])} in {shown(weight_map[lost[0]])}"
        raise Blip3oError(f"{listing} lists {where}, but that file does not contain it. {again}")
    return index


def _is_file_name(name: object) -> bool:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) < 200:
        return False
    return not {"/", "\\"} & set(name) and name not in (".", "..")


def _what_is_there(folder: Path) -> str:
    """Which files may be meant for the weights, and what to do about it."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError:
        names = []
    ends = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".part", ".crdownload", ".incomplete")
    weights = [name for name in names if name.endswith(ends)]
    seen = f"It contains {', '.join(map(shown, weights[:6]))}{', ...' if len(weights) > 6 else ''}. " if weights else ""
    if any(re.search(r"-\d+-of-\d+\.safetensors$", name) for name in weights):
        return f"{seen}These are parts of the weights: download the index (.safetensors.index.json) into {folder}, too."
    if any(name.endswith(".safetensors") for name in weights):
        return f"{seen}If one of them is the whole checkpoint, rename it to model.safetensors."
    if weights:
        return f"{seen}Only .safetensors files can be loaded. Download those of this checkpoint."
    return "Choose the folder that contains config.json and the .safetensors files."


# What tools for quantised weights add beside a weight.
_SCALES = (
    ".weight_scale", ".scale_weight", ".weight_scale_inv", ".input_scale", ".scale_input", ".comfy_quant", ".absmax",
    ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4", ".SCB", ".qweight", ".qzeros", "scaled_fp8",
)  # fmt: skip


def _unquantised(folder: Path, index: TensorIndex) -> TensorIndex:
    scaled = [name for name in index if name.endswith(_SCALES)]
    if scaled:
        raise Blip3oError(
            f"The weights in {folder} are quantised or scaled fp8, which is not supported: {shown(scaled[0])} and "
            f"{len(scaled) - 1} other tensors are scales. Use the weights in bfloat16, float16 or float32; plain fp8 "
            "without scales can be loaded, too."
        )
    return index


def open_file(file: Path):
    """A safetensors handle, memory-mapped. Raises Blip3oError when the file is missing or damaged."""
    open_regular(file, "Make it again.").close()
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        size = file.stat().st_size if file.exists() else 0
        raise Blip3oError(
            f"{file} ({size} bytes) cannot be read as a safetensors file: {error}. It is damaged or was cut short. "
            "Download it again."
        ) from error


def strip_prefix(index: TensorIndex, prefix: str) -> TensorIndex:
    """The tensors whose names start with `prefix`, named by the rest."""
    return {name[len(prefix) :]: entry for name, entry in index.items() if name.startswith(prefix)}


def mismatches(
    network: nn.Module, tensors: Mapping[str, TensorEntry | torch.Tensor], ignored: tuple[str, ...] = ()
) -> list[str]:
    """What does not fit between a network on the meta device and its tensors, a line each; empty when all does.

    `ignored`: beginnings of names that may be there although the network does not have them.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    lines = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    for name, entry in tensors.items():
        if name in expected:
            if tuple(entry.shape) != expected[name]:
                lines.append(f"shape: {name} is {list(entry.shape)}, the config says {list(expected[name])}")
            if isinstance(entry, TensorEntry) and entry.dtype not in (*FLOATS, *EIGHT_BITS):
                lines.append(f"number format: {name} is {entry.dtype}; weights are floating-point numbers")
        elif not name.startswith(ignored):
            lines.append(f"unexpected: {shown(name)} {shown(list(entry.shape))}")
    return lines


def load_weights(network: nn.Module, index: TensorIndex, dtype: torch.dtype | None) -> None:
    """Give a network on the meta device its weights, cast to `dtype`, frozen, in eval mode.

    `dtype` None keeps the stored one; a part stored in several gets the one that most of its bytes have. float16
    becomes float32, see `COMPUTE_DTYPES`.
    Raises Blip3oError that names every tensor with NaN or infinity, before anything is assigned.
    """
    dtype = dtype or _common_dtype(index)
    loaded, damaged = {}, []
    for name, tensor in _tensors({name: index[name] for name in network.state_dict()}, dtype):
        if tensor.is_floating_point() and not is_finite(tensor):
            damaged.append(f"{index[name].name} in {index[name].file}")
        loaded[name] = tensor
    if damaged:
        raise Blip3oError(
            f"{len(damaged)} tensors contain NaN or infinite values:\n{bullet_list(damaged)}\nDownload the checkpoint "
            "again. If they remain, the checkpoint itself is damaged, or its values are too large for "
            f"{dtype or 'its dtype'}."
        )
    network.load_state_dict(loaded, assign=True)
    network.requires_grad_(False).eval()


def loaded_dtype(index: TensorIndex) -> torch.dtype:
    """The dtype in which `load_weights` gives a part with these tensors its weights when none is asked for."""
    floats = [DTYPES[entry.dtype] for entry in index.values() if entry.dtype in FLOATS]
    return _common_dtype(index) or (floats[0] if floats else torch.float32)


def _common_dtype(index: TensorIndex) -> torch.dtype | None:
    """The dtype that most bytes have, where there are several; bfloat16 for 8-bit numbers alone."""
    sizes: dict[str, int] = {}
    for entry in index.values():
        if entry.dtype in FLOATS:
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.nbytes
    if any(entry.dtype in EIGHT_BITS for entry in index.values()):
        sizes.setdefault("BF16", 0)
    elif set(sizes) == {"F16"}:
        return torch.float32
    elif len(sizes) < 2:
        return None
    most = DTYPES[max(sizes, key=lambda name: sizes[name])]
    return torch.float32 if most == torch.float16 else most


def _tensors(index: TensorIndex, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors file by file."""
    by_file: dict[Path, list[str]] = {}
    for name, entry in index.items():
        by_file.setdefault(entry.file, []).append(name)
    for names in by_file.values():
        with open_unchanged(index[names[0]]) as reader:
            for name in names:
                yield name, reader.read(index[name], dtype)
