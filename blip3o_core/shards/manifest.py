"""manifest.json: the shards of a folder and what is in each, so that nobody must open them to know."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import Blip3oError, did_you_mean, shown
from ..files import read_json, write_json
from .layout import ShardFacts

MANIFEST = "manifest.json"
_FORMAT, _VERSION = "blip3o shards", 1
_REMEDY = "Write the shards again, or copy the folder again from where it came from."


@dataclass(frozen=True)
class Manifest:
    shards: tuple[ShardFacts, ...]

    @cached_property
    def identity(self) -> str:
        """Equal for the same shards in the same order, whatever they and their folder are called."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.items} {shard.bytes} {shard.sha256}\n".encode())
        return digest.hexdigest()


def write_manifest(folder: Path, shards: Sequence[ShardFacts]) -> None:
    """Write the folder's manifest, whole or not at all. The order of the shards is that of their names."""
    names = sorted(shard.name for shard in shards)
    if twice := [name for name, after in zip(names, names[1:], strict=False) if name == after]:
        raise ValueError(f"two shards are called {twice[0]}")
    rows = [dataclasses.asdict(shard) for shard in sorted(shards, key=lambda shard: shard.name)]
    write_json(folder / MANIFEST, {"format": _FORMAT, "version": _VERSION, "shards": rows})


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest of shards, be it a damaged one. Other programs use the name, too."""
    try:
        with open(folder / MANIFEST, "rb") as stream:
            return f'"{_FORMAT}"'.encode() in stream.read(256)
    except (OSError, ValueError):  # ValueError: a zero byte in a name
        return False


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest. Raises Blip3oError for one that is missing, damaged or of something else."""
    path = folder / MANIFEST
    if not path.is_file():
        raise Blip3oError(
            f"{shown(folder)} has no {MANIFEST}, so it is not a complete folder of shards. Let the program that writes "
            "the shards finish, or choose another folder."
        )
    content = read_json(path, _REMEDY)
    if content.get("format") != _FORMAT:
        raise Blip3oError(
            f"{shown(path)} does not describe shards: a different program wrote it. Choose the folder that `blip3o "
            "curate` wrote, or give the .tar files one by one."
        )
    if content.get("version") != _VERSION:
        raise Blip3oError(
            f"{shown(path)} has version {shown(repr(content.get('version')), 20)} of the format, and this program "
            f"reads {_VERSION}. Update this program, or write the shards again."
        )
    rows = content.get("shards")
    if not isinstance(rows, list):
        raise Blip3oError(f"{shown(path)} has no list of shards. {_REMEDY}")
    shards = tuple(_facts(row, number, path) for number, row in enumerate(rows))
    if len({shard.name for shard in shards}) < len(shards):
        raise Blip3oError(f"{shown(path)} names a shard twice. {_REMEDY}")
    return Manifest(shards)


_FIELDS = {one.name: one.type for one in dataclasses.fields(ShardFacts)}


def _facts(row, number: int, path: Path) -> ShardFacts:
    where = f"{shown(path)}, shard {number}"
    if not isinstance(row, dict):
        raise Blip3oError(f"{where}, is not a JSON object. {_REMEDY}")
    for name in row:
        if name not in _FIELDS:
            raise Blip3oError(
                f"{where}, has an unknown {shown(repr(name), 60)}. {did_you_mean(name, [*_FIELDS])} {_REMEDY}"
            )
    for name, kind in _FIELDS.items():
        value = row.get(name)
        good = type(value) is kind and (kind is str or value >= 0)
        if good and name in ("sha256", "ends"):
            good = len(value) == 64 and set(value) <= set("0123456789abcdef")
        if good and name == "name":  # of a file in this folder, and nowhere else
            good = bool(value) and not set(value) & set("/\\\0")
        if not good:
            raise Blip3oError(f"{where}: its {name} is {shown(repr(value), 60)}. {_REMEDY}")
    return ShardFacts(**row)
