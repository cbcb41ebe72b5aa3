"""The tensors of a checkpoint folder: which file holds which, and how they reach a network built on the meta device.

- Tensors are read and converted window by window: the peak is the loaded weights plus a window.
- Nothing is assigned before names, shapes and values of the whole part are known to be right.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..checks import is_finite
from ..errors import Blip3oError, bullet_list
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


def read_index(folder: Path, stem: str = "model") -> TensorIndex:
    """The tensors of `<stem>.safetensors`, or of the shards that `<stem>.safetensors.index.json` lists.

    Reads headers only. Raises Blip3oError when files are missing or damaged.
    """
    listing, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if listing.is_file():
        files = _shards(folder, listing)
    elif single.is_file():
        files = [single]
    else:
        raise Blip3oError(
            f"{folder} has no weights: neither {single.name} nor {listing.name} is in it. Choose the folder that holds "
            "config.json and the .safetensors files."
        )
    index: TensorIndex = {}
    for file in files:
        index |= read_header(file)
    return index


def _shards(folder: Path, listing: Path) -> list[Path]:
    weight_map = read_json(listing).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names:
        raise Blip3oError(f"{listing} lists no files under 'weight_map'. Download it again.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise Blip3oError(
            f"{listing} lists {len(names)} files, and {len(missing)} of them are missing: {', '.join(missing)}. "
            f"Download them into {folder}."
        )
    return [folder / name for name in names]


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
        elif not name.startswith(ignored):
            lines.append(f"unexpected: {name} {list(entry.shape)}")
    return lines


def load_weights(network: nn.Module, index: TensorIndex, dtype: torch.dtype | None) -> None:
    """Give a network on the meta device its weights, cast to `dtype`, frozen, in eval mode.

    `dtype` None keeps the stored one; a part stored in several gets the one that most of its bytes have.
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


def _common_dtype(index: TensorIndex) -> torch.dtype | None:
    """The dtype that most bytes have, where there are several; bfloat16 for 8-bit numbers alone."""
    sizes: dict[str, int] = {}
    for entry in index.values():
        if entry.dtype in FLOATS:
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.nbytes
    if any(entry.dtype in EIGHT_BITS for entry in index.values()):
        sizes.setdefault("BF16", 0)
    elif len(sizes) < 2:
        return None
    return DTYPES[max(sizes, key=lambda name: sizes[name])]


def _tensors(index: TensorIndex, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors file by file."""
    by_file: dict[Path, list[str]] = {}
    for name, entry in index.items():
        by_file.setdefault(entry.file, []).append(name)
    for names in by_file.values():
        with open_unchanged(index[names[0]]) as reader:
            for name in names:
                yield name, reader.read(index[name], dtype)
