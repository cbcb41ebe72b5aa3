"""A nested value (lists, tuples, dicts, tensors, numbers, text) in a safetensors file, and back without a change.

Tensors keep every bit and their dtype; a description in the file's metadata says where each belongs. No pickle: a file
that was made to do harm can hold values of these kinds and nothing else.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import Blip3oError, shown
from ..files import atomic_write, parse_json
from .safetensors_file import DTYPES, TensorIndex, TensorReader, open_unchanged, read_header, read_metadata, to_bytes

DEPTH, DESCRIPTION_LIMIT, INTEGER_BITS = 64, 16 * 2**20, 4096
Keys = tuple[str | int, ...]


class CannotStore(Blip3oError):
    """A value that no file can hold; `keys` lead to it from the top."""

    def __init__(self, keys: Keys, reason: str):
        super().__init__(f"{_place(keys)} is {reason}")
        self.keys, self.reason = keys, reason


# What a host's own object is: a name and a plain value; None for what it does not know. And back.
Pack = Callable[[Any], tuple[str, Any] | None]
Unpack = Callable[[str, Any], Any]


def _place(keys: Keys) -> str:
    return "".join(f"[{key!r}]" for key in keys) or "the value"


def save_nested(
    path: Path,
    value: Any,
    kind: str,
    metadata: dict[str, str] | None = None,
    pack: Pack = lambda value: None,
    replace: bool = True,
) -> None:
    """Write `path` whole or not at all. `kind`: what the value is, which `load_nested` asks for again.

    Raises CannotStore for a value with something else in it. The same value gives the same bytes. `metadata`: more text
    to keep in the file, such as a workflow. `replace` False: raises NameTaken where `path` exists.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_Encoder(tensors, pack).encode(value, ()))
    if len(text) > DESCRIPTION_LIMIT:
        raise Blip3oError(f"The value has too many parts: a description of {len(text):,} bytes. Store less of it.")
    content = to_bytes(tensors, {**(metadata or {}), _key(kind): text})
    with atomic_write(path, replace=replace) as scratch:
        scratch.write_bytes(content)


def load_nested(path: Path, kind: str, remedy: str, unpack: Unpack | None = None) -> Any:
    """What `save_nested` wrote. Raises Blip3oError, which ends with `remedy`, for every other file."""
    text, index = read_metadata(path).get(_key(kind)), read_header(path)
    if not isinstance(text, str):
        raise Blip3oError(f"{shown(path)} does not hold {kind}. {remedy}")
    if len(text) > DESCRIPTION_LIMIT:
        raise Blip3oError(f"The description in {shown(path)} has {len(text):,} bytes, too many. {remedy}")
    description = parse_json(text, f"The description in {shown(path)}", remedy)
    try:
        if not index:
            return _Decoder({}, None, unpack).decode_all(description)
        with open_unchanged(next(iter(index.values()))) as reader:
            return _Decoder(index, reader, unpack).decode_all(description)
    except _Wrong as error:
        raise Blip3oError(f"{shown(path)} does not hold {kind} as it should: {error}. {remedy}") from None


def _key(kind: str) -> str:
    return f"blip3o_{kind}"


class _Encoder:
    """A value -> a list [what it is, ...] for JSON. Tensors go into `tensors` under numbers, each once."""

    def __init__(self, tensors: dict[str, torch.Tensor], pack: Pack):
        self._tensors, self._pack = tensors, pack
        self._names: dict[int, str] = {}  # id of a tensor that the value holds -> its name

    def encode(self, value: Any, keys: Keys) -> list:
        if len(keys) > DEPTH:
            raise CannotStore(keys[:3], f"nested more than {DEPTH} deep")
        kind = type(value)
        if value is None or kind in (bool, str):
            return ["is", value]
        if kind is int:
            if value.bit_length() > INTEGER_BITS:
                raise CannotStore(keys, f"a number of {value.bit_length():,} bits")
            return ["is", value]
        if kind is float:
            return ["float", value.hex()]
        if kind in (list, tuple, torch.Size):
            name = "list" if kind is list else "tuple"
            return [name, [self.encode(each, (*keys, place)) for place, each in enumerate(value)]]
        if kind is dict:
            return ["dict", [self._item(key, each, keys) for key, each in value.items()]]
        if isinstance(value, torch.Tensor):
            return ["tensor", self._tensor(value, keys)]
        packed = self._pack(value)
        if packed is None:
            raise CannotStore(keys, f"of the type {kind.__module__}.{kind.__qualname__}")
        return ["object", packed[0], self.encode(packed[1], keys)]

    def _item(self, key: Any, value: Any, keys: Keys) -> list:
        if type(key) not in (str, int):
            raise CannotStore(keys, f"a dictionary with the key {shown(repr(key), 60)}; keys must be text or numbers")
        return [key, self.encode(value, (*keys, key))]

    def _tensor(self, tensor: torch.Tensor, keys: Keys) -> str:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_meta:
            raise CannotStore(keys, f"a tensor of a special kind ({type(tensor).__name__}, {tensor.layout})")
        if tensor.dtype not in DTYPES.values():
            raise CannotStore(keys, f"a tensor of {tensor.dtype}")
        if id(tensor) not in self._names:
            name = self._names[id(tensor)] = str(len(self._tensors))
            plain = tensor.detach().resolve_conj().resolve_neg()
            # Its own numbers, and no more than those: it may be a view into something large, or share them.
            self._tensors[name] = plain.to("cpu", copy=True).contiguous()
        return self._names[id(tensor)]


class _Wrong(Exception):
    """What is wrong with a description, in words that follow a colon."""


class _Decoder:
    def __init__(self, index: TensorIndex, reader: TensorReader | None, unpack: Unpack | None):
        self._index, self._reader, self._unpack = index, reader, unpack
        self._read: dict[str, torch.Tensor] = {}

    def decode_all(self, description: Any) -> Any:
        value = self._decode(description, 0)
        unused = self._index.keys() - self._read.keys()
        if unused:
            raise _Wrong(f"{len(unused)} of its {len(self._index)} tensors belong nowhere")
        return value

    def _decode(self, part: Any, depth: int) -> Any:
        if depth > DEPTH:
            raise _Wrong(f"it is nested more than {DEPTH} deep")
        match part:
            case ["is", None | bool() | str() | int() as value]:
                return value
            case ["float", str() as text]:
                return self._float(text)
            case ["list", list() as items]:
                return [self._decode(each, depth + 1) for each in items]
            case ["tuple", list() as items]:
                return tuple(self._decode(each, depth + 1) for each in items)
            case ["dict", list() as items]:
                return self._dict(items, depth)
            case ["tensor", str() as name]:
                return self._tensor(name)
            case ["object", str() as name, inner] if self._unpack is not None:
                value = self._unpack(name, self._decode(inner, depth + 1))
                if value is not None:
                    return value
        raise _Wrong(f"its description has {shown(part, 80)}, which means nothing")

    def _float(self, text: str) -> float:
        try:
            return float.fromhex(text)
        except (ValueError, OverflowError):
            raise _Wrong(f"{shown(text, 60)} is not a number") from None

    def _dict(self, items: list, depth: int) -> dict:
        out: dict = {}
        for item in items:
            if not isinstance(item, list) or len(item) != 2 or type(item[0]) not in (str, int) or item[0] in out:
                raise _Wrong(f"a dictionary in its description has {shown(item, 80)}")
            out[item[0]] = self._decode(item[1], depth + 1)
        return out

    def _tensor(self, name: str) -> torch.Tensor:
        if name not in self._index or self._reader is None:
            raise _Wrong(f"its description names a tensor {shown(name, 40)}, which is missing")
        if name not in self._read:
            self._read[name] = self._reader.read(self._index[name])
        return self._read[name]
