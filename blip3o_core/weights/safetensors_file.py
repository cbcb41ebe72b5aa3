"""One safetensors file: its header, checked before it is believed, and the bytes of its tensors.

Bytes are copied, never memory-mapped: a mapped file that is cut or overwritten ends the process, or changes a model
that is already loaded.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import torch

from ..errors import Blip3oError, shown
from ..files import decode_text, open_regular, parse_json

REMEDY = "It is damaged or was cut short. Download it again."
WINDOW = 32 * 2**20  # bytes that are read at once
HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
FLOATS = ("F64", "F32", "F16", "BF16")
EIGHT_BITS = ("F8_E4M3", "F8_E5M2")  # cast when they are loaded: no network computes in them


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies, and what the file's header says of it."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it: F32, BF16, ...
    nbytes: int
    start: int = 0  # byte of the file
    stamp: tuple[int, ...] = ()  # of the file when its header was read, see `stamp_of`

    @cached_property
    def count(self) -> int:
        """Numbers in the tensor."""
        return prod(self.shape)


TensorIndex = dict[str, TensorEntry]


def read_header(file: Path) -> TensorIndex:
    """The tensors of a file, without their bytes.

    Raises Blip3oError unless the tensors fill the file without a gap, as the format demands.
    """
    return _read(file)[0]


def read_metadata(file: Path) -> dict[str, str]:
    """The texts that a file keeps beside its tensors; raises Blip3oError as `read_header` does."""
    return _read(file)[1]


def _read(file: Path) -> tuple[TensorIndex, dict[str, str]]:
    with open_regular(file, "Download it again.") as handle:
        stamp = stamp_of(handle)
        size = stamp[0]
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(size - 8, HEADER_LIMIT):
            raise _damaged(file, size, f"it starts with a header of {length:,} bytes")
        text = decode_text(handle.read(length), f"The safetensors header of {file}")
    content = parse_json(text, f"The safetensors header of {file} ({size:,} bytes)", REMEDY)
    if not isinstance(content, dict):
        raise _damaged(file, size, "its header lists no tensors")
    metadata = content.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    entries = [_entry(file, stamp, name, facts, 8 + length) for name, facts in content.items()]
    end = 8 + length
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.nbytes)):
        if entry.start != end:
            raise _damaged(file, size, f"{shown(entry.name)} starts at byte {entry.start:,} and not at {end:,}")
        end += entry.nbytes
    if end != size:
        raise _damaged(file, size, f"its tensors end at byte {end:,}")
    texts = {name: text for name, text in metadata.items() if isinstance(text, str)}
    return {entry.name: entry for entry in entries}, texts


def to_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """What a file of these tensors and texts holds, always the same bytes: the library shuffles the texts."""
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def stamp_of(handle: BinaryIO) -> tuple[int, ...]:
    """Changes when another file takes an open one's name, and when its content is written again."""
    facts = os.fstat(handle.fileno())
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _entry(file: Path, stamp: tuple[int, ...], name: str, facts: Any, data: int) -> TensorEntry:
    size = stamp[0]
    fields = facts if isinstance(facts, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise _damaged(file, size, f"its header describes {shown(name)} as {shown(facts)}")
    if dtype not in DTYPES:
        raise Blip3oError(
            f"{shown(name)} in {file} has the number format {shown(repr(dtype))}, which is not supported. Use a file "
            "of bfloat16, float16 or float32 numbers."
        )
    start, end = offsets
    nbytes = prod(shape) * DTYPES[dtype].itemsize
    if end - start != nbytes or max(shape, default=0) > 2**48:
        raise _damaged(file, size, f"{shown(name)} is {dtype} {shown(shape)} in {end - start:,} bytes")
    return TensorEntry(file, name, tuple(shape), dtype, nbytes, data + start, stamp)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= 16 and all(type(item) is int and item >= 0 for item in value)


def _damaged(file: Path, size: int, reason: str) -> Blip3oError:
    return Blip3oError(f"{file} ({size:,} bytes) cannot be read as a safetensors file: {reason}. {REMEDY}")


class TensorReader:
    """Reads tensors of one open file, which must be as it was when their header was read."""

    def __init__(self, handle: BinaryIO, file: Path):
        self._handle, self._file = handle, file
        self._window: torch.Tensor | None = None  # one for all: many of several sizes would leave holes in the heap

    def read(self, entry: TensorEntry, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor on the CPU in `dtype`, or as stored. Beside it, WINDOW bytes are taken."""
        stored = DTYPES[entry.dtype]
        out = torch.empty(entry.shape, dtype=dtype or stored, device="cpu")
        flat, step = out.reshape(-1), WINDOW // stored.itemsize
        self._handle.seek(entry.start)
        for begin in range(0, entry.count, step):
            piece = flat[begin : begin + step]
            if out.dtype == stored:
                self._fill(piece.view(torch.uint8))
            else:
                if self._window is None:
                    self._window = torch.empty(WINDOW, dtype=torch.uint8, device="cpu")
                window = self._window[: len(piece) * stored.itemsize]
                self._fill(window)
                piece.copy_(window.view(stored))
        return out

    def read_bytes(self, start: int, count: int) -> bytearray:
        content = bytearray(count)
        self._handle.seek(start)
        self._read_into(memoryview(content))
        return content

    def _fill(self, target: torch.Tensor) -> None:
        self._read_into(memoryview(target.numpy()))

    def _read_into(self, target: memoryview) -> None:
        filled = 0
        while filled < len(target):
            count = self._handle.readinto(target[filled:])  # type: ignore[attr-defined]
            if not count:
                raise Blip3oError(f"{self._file} became shorter while it was read. Write it again, then try again.")
            filled += count

    def status(self) -> os.stat_result:
        return os.fstat(self._handle.fileno())


@contextlib.contextmanager
def open_unchanged(entry: TensorEntry) -> Iterator[TensorReader]:
    """A reader for the file of a tensor. Raises Blip3oError when the file changed since its header was read."""
    with open_regular(entry.file, "Download it again.") as handle:
        _require_unchanged(handle, entry)
        yield TensorReader(handle, entry.file)
        _require_unchanged(handle, entry)


def _require_unchanged(handle: BinaryIO, entry: TensorEntry) -> None:
    if stamp_of(handle) != entry.stamp:
        raise Blip3oError(
            f"{entry.file} changed while it was in use. Wait until it is written, then load the checkpoint again."
        )


def read_tensor(entry: TensorEntry) -> torch.Tensor:
    """A tensor on the CPU, as stored. Its file may have been written again since, with the same shapes."""
    with open_regular(entry.file, "Download it again.") as handle:
        if stamp_of(handle) != entry.stamp:
            now = read_header(entry.file).get(entry.name)
            if now is None or (now.dtype, now.shape) != (entry.dtype, entry.shape):
                raise Blip3oError(f"{entry.file} was replaced by a file without {shown(entry.name)}. Restore it.")
            entry = now
        return TensorReader(handle, entry.file).read(entry)
