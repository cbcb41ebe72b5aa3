"""Pictures with captions on disk: folders with `items.jsonl`, and webdataset-style .tar shards; read by position.

- An item without a caption is a reconstruction: the picture is learnt from its own image tokens, which are no labels.
- A shard's index is read once and its members are read in place, so a shard serves any order.
"""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import Blip3oError

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Item:
    caption: str | None  # None: a reconstruction
    file: Path
    name: str  # for messages
    offset: int | None = None  # inside a shard, in bytes
    size: int = 0

    def read(self) -> bytes:
        try:
            if self.offset is None:
                return self.file.read_bytes()
            with open(self.file, "rb") as shard:
                shard.seek(self.offset)
                return shard.read(self.size)
        except OSError as error:
            raise Blip3oError(f"{self.name} cannot be read: {error}. Restore it or take it out of the data.") from error


def find_items(sources: tuple[str, ...]) -> list[Item]:
    """All items, in the order of the sources and of their lines or names. Raises Blip3oError when there are none."""
    items: list[Item] = []
    for source in map(Path, sources):
        if source.is_file() and source.suffix == ".tar":
            found = _shard(source)
        elif (source / "items.jsonl").is_file():
            found = _folder(source)
        elif source.is_dir():
            found = [item for shard in sorted(source.glob("*.tar")) for item in _shard(shard)]
        else:
            raise Blip3oError(f"data names {source}, which is neither a folder nor a .tar shard. Check the path.")
        if not found:
            raise Blip3oError(f"{source} holds no pictures: give a folder with items.jsonl or .tar shards, or a shard.")
        items += found
    return items


def _folder(folder: Path) -> list[Item]:
    items, path = [], folder / "items.jsonl"
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            image, caption = entry["image"], entry.get("caption")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Blip3oError(
                f'{path}, line {number} is {line[:80]!r}; write {{"image": path, "caption": text}}.'
            ) from None
        file = folder / str(image)
        if not file.is_file():
            raise Blip3oError(f"{path}, line {number} names {image!r}, and {file} does not exist. Paths start there.")
        items.append(Item(_caption(caption, f"{path}, line {number}"), file, str(file)))
    return items


def _shard(file: Path) -> list[Item]:
    """Members that share a name up to the first dot belong together: a picture, and .txt or .json (`caption`)."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    items = []
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                folder, _, base = member.name.rpartition("/")
                stem, dot, kind = base.partition(".")
                if member.isfile() and stem and dot:
                    groups.setdefault(f"{folder}/{stem}", {})["." + kind.lower()] = member
            for members in groups.values():
                picture = next((members[kind] for kind in PICTURES if kind in members), None)
                if picture is None:
                    continue
                name, caption = f"{file}:{picture.name}", None
                if ".txt" in members:
                    caption = shard.extractfile(members[".txt"]).read().decode("utf-8")
                elif ".json" in members:
                    caption = json.loads(shard.extractfile(members[".json"]).read()).get("caption")
                items.append(Item(_caption(caption, name), file, name, picture.offset_data, picture.size))
    except (tarfile.TarError, OSError, ValueError, AttributeError) as error:
        raise Blip3oError(f"{file} cannot be read as an uncompressed .tar shard: {error}. Make it again.") from error
    return items


def _caption(caption, where: str) -> str | None:
    if caption is not None and not isinstance(caption, str):
        raise Blip3oError(f"{where}: the caption is {caption!r}; it must be text, or absent for a reconstruction.")
    return caption.strip() or None if caption else None


class Order:
    """Which item each row of each step shows: every epoch its own permutation, a function of the position alone."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self._epoch, self._permutation = count, seed, None, []

    def item(self, position: int) -> int:
        """Item of the row that is `position`-th since the beginning of the run."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            generator = torch.Generator("cpu").manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.count, generator=generator).tolist()
        return self._permutation[place]
