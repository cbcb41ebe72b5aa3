"""The tensors of a checkpoint folder: which file holds which, and how they reach a network built on the meta device.

- Tensors stay memory-mapped when their dtype is kept. When it changes, files are reopened every WINDOW bytes and large
  tensors converted by rows: pages already read do not stay resident, the peak is the loaded weights plus a window.
- Nothing is assigned before names, shapes and values of the whole part are known to be right.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import Blip3oError

WINDOW = 32 * 2**20


@dataclass(frozen=True)
class TensorEntry:
    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it: F32, BF16, ...
    nbytes: int


Table = dict[str, TensorEntry]


def read_table(folder: Path, stem: str = "model") -> Table:
    """Names, shapes and files of `<stem>.safetensors` or of the shards its index lists. Reads headers only."""
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise Blip3oError(
                f"{index} lists {len(names)} files; missing: {', '.join(missing) or 'all'}. Download what is missing "
                f"into {folder}."
            )
        files = [folder / name for name in names]
    elif single.is_file():
        files = [single]
    else:
        raise Blip3oError(
            f"{folder} has no {stem}.safetensors and no {stem}.safetensors.index.json: no weights to load. Give the "
            "folder that holds config.json and the .safetensors files."
        )
    table: Table = {}
    for file in files:
        with open_file(file) as handle:
            for name in handle.keys():
                piece = handle.get_slice(name)
                shape, dtype = tuple(piece.get_shape()), piece.get_dtype()
                nbytes = _SIZES.get(dtype, 4) * torch.Size(shape).numel()
                table[name] = TensorEntry(file, name, shape, dtype, nbytes)
    return table


_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def open_file(file: Path):
    """A safetensors handle; a damaged file is a Blip3oError that says so."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise Blip3oError(
            f"{file} ({file.stat().st_size if file.exists() else 0} bytes) is not a whole safetensors file: {error}. "
            "It is damaged or was cut short; download it again."
        ) from error


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Blip3oError(f"{path} does not exist. Copy it from where the checkpoint came from.") from None
    except (OSError, ValueError) as error:
        raise Blip3oError(f"{path} cannot be read as JSON: {error}. Copy it again.") from error
    if not isinstance(content, dict):
        raise Blip3oError(f"{path} holds a {type(content).__name__}, not an object. Copy it again.")
    return content


def strip_prefix(table: Table, prefix: str) -> Table:
    return {name[len(prefix) :]: entry for name, entry in table.items() if name.startswith(prefix)}


def compare(network: nn.Module, table: Table, ignored: tuple[str, ...] = ()) -> list[str]:
    """What does not fit between a network on the meta device and its tensors, a line each; empty when all does."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    lines = [f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in table]
    for name, entry in table.items():
        if name in wanted:
            if entry.shape != wanted[name]:
                lines.append(f"shape: {name} is {list(entry.shape)}, the config says {list(wanted[name])}")
        elif not name.startswith(ignored):
            lines.append(f"unexpected: {name} {list(entry.shape)}")
    return lines


def assign(network: nn.Module, table: Table, dtype: torch.dtype | None) -> None:
    """Give a network on the meta device its weights, cast to `dtype`, frozen, in eval mode.

    `dtype` None keeps the stored one; a part stored in several gets the one that most of its bytes have.
    Raises Blip3oError naming every tensor that holds NaN or infinity, before anything is assigned.
    """
    wanted = network.state_dict()
    dtype = dtype or _common_dtype(table)
    loaded, damaged = {}, []
    for name, tensor in _tensors({name: table[name] for name in wanted}, dtype):
        if tensor.is_floating_point() and not _finite(tensor):
            damaged.append(f"{table[name].name} in {table[name].file}")
        loaded[name] = tensor
    if damaged:
        raise Blip3oError(
            f"{len(damaged)} tensors hold NaN or infinite values: {', '.join(damaged[:20])}. Download it again; if "
            "they remain, the checkpoint itself is damaged."
        )
    network.load_state_dict(loaded, assign=True)
    network.requires_grad_(False).eval()


def _common_dtype(table: Table) -> torch.dtype | None:
    sizes: dict[str, int] = {}
    for entry in table.values():
        if entry.dtype in _DTYPES:
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.nbytes
    return _DTYPES[max(sizes, key=sizes.get)] if len(sizes) > 1 else None


def _tensors(table: Table, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors file by file; a handle is reopened whenever WINDOW bytes were converted."""
    by_file: dict[Path, list[str]] = {}
    for name, entry in table.items():
        by_file.setdefault(entry.file, []).append(name)
    for file, names in by_file.items():
        handle, converted = open_file(file), 0
        for name in names:
            entry = table[name]
            if dtype is None or _DTYPES.get(entry.dtype, dtype) == dtype:
                yield name, handle.get_tensor(entry.name)
                continue
            converted += entry.nbytes
            if entry.nbytes > WINDOW:
                yield name, _convert_by_rows(entry, dtype)
            else:
                yield name, handle.get_tensor(entry.name).to(dtype)
            if converted > WINDOW:
                handle, converted = open_file(file), 0


def _convert_by_rows(entry: TensorEntry, dtype: torch.dtype) -> torch.Tensor:
    """A large tensor in pieces of about WINDOW bytes, so that it is never resident in both dtypes at once."""
    out = torch.empty(entry.shape, dtype=dtype)
    rows = max(1, entry.shape[0] * WINDOW // entry.nbytes)
    for start in range(0, entry.shape[0], rows):
        out[start : start + rows] = open_file(entry.file).get_slice(entry.name)[start : start + rows]
    return out


def _finite(tensor: torch.Tensor) -> bool:
    """Without a temporary of the tensor's size: min and max carry NaN and infinity along."""
    if tensor.numel() == 0:
        return True
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
