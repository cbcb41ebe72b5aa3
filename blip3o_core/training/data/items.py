"""Pictures with captions on disk: folders with `items.jsonl`, webdataset-style .tar shards, packed files; by position.

- An item without a caption is a reconstruction: the picture is learnt from its own image tokens, which are no labels.
- An item with references is an edit: they and an instruction give the picture.
- Several captions or instructions of an item say the same; each time it is shown, one of them is drawn.
- A shard's index is read once and its members are read in place, so a shard serves any order.
"""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import Blip3oError
from .packed import Captions, EncodedItem, PackedItem, open_pack, read_captions

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class ImageSource:
    """The bytes of one picture: a file, or a part of a shard."""

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


@dataclass(frozen=True)
class Item:
    captions: Captions  # none: a reconstruction
    picture: ImageSource
    references: tuple[ImageSource, ...] = ()

    @property
    def name(self) -> str:
        return self.picture.name

    @property
    def num_references(self) -> int:
        """References."""
        return len(self.references)

    def encode(self, pictures) -> EncodedItem:
        """Through `pictures`, a ImageEncoder."""
        codes, latents = zip(*map(pictures.encode, (self.picture, *self.references)), strict=True)
        codes, latents = torch.stack(codes), torch.stack(latents)
        return EncodedItem(codes[0], latents[0], codes[1:], latents[1:])


def find_items(sources: tuple[str, ...]) -> list[Item | PackedItem]:
    """All items, in the order of the sources and of their lines or names. Raises Blip3oError when there are none."""
    items: list[Item | PackedItem] = []
    for source in map(Path, sources):
        if source.is_file() and source.suffix == ".tar":
            found = _shard(source)
        elif source.is_file() and source.suffix == ".safetensors":
            found = open_pack(source).items()
        elif (source / "items.jsonl").is_file():
            found = _folder(source)
        elif source.is_dir():
            found = [item for shard in sorted(source.glob("*.tar")) for item in _shard(shard)]
        else:
            raise Blip3oError(
                f"data names {source}, which is no folder, .tar shard or packed .safetensors file. Check the path."
            )
        if not found:
            raise Blip3oError(f"{source} holds no pictures: give a folder with items.jsonl or .tar shards, or a shard.")
        items += found
    return items


def _folder(folder: Path) -> list[Item]:
    items, path = [], folder / "items.jsonl"
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            image, images = entry["image"], entry.get("images") or []
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Blip3oError(f'{where} is {line[:80]!r}; write {{"image": path, "caption": text}}.') from None
        pictures = []
        for name in [image, *(images if isinstance(images, list) else [images])]:
            file = folder / str(name)
            if not file.is_file():
                raise Blip3oError(f"{where} names {name!r}, and {file} does not exist. Paths start there.")
            pictures.append(ImageSource(file, str(file)))
        items.append(_item(entry, pictures, where))
    return items


def _item(entry: dict, pictures: list[ImageSource], where: str) -> Item:
    """A target and its references, with what `entry` says of them."""
    edit = len(pictures) > 1
    instructions, captions = (read_captions(entry.get(name), where) for name in ("instruction", "caption"))
    if bool(instructions) != edit or (edit and captions):
        raise Blip3oError(
            f"{where} has {len(pictures) - 1} references and {', '.join(entry) or 'no text'}: an edit has references "
            "and an instruction and no caption, any other picture has neither."
        )
    return Item(instructions or captions, pictures[0], tuple(pictures[1:]))


def _shard(file: Path) -> list[Item]:
    """Members that share a name up to the first dot belong together.

    A picture, .txt or .json (`caption`, `instruction`), and in edits .reference.png or .reference1.png, ...
    """
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
                target = next((members[kind] for kind in IMAGE_SUFFIXES if kind in members), None)
                if target is None:
                    continue
                sources = sorted(
                    kind for kind in members if kind.startswith(".reference") and kind.endswith(IMAGE_SUFFIXES)
                )
                found = [target, *(members[kind] for kind in sources)]
                pictures = [ImageSource(file, f"{file}:{one.name}", one.offset_data, one.size) for one in found]
                entry = {}
                if ".txt" in members:
                    text = shard.extractfile(members[".txt"]).read().decode("utf-8")
                    entry = {"instruction" if sources else "caption": text}
                elif ".json" in members:
                    entry = dict(json.loads(shard.extractfile(members[".json"]).read()))
                items.append(_item(entry, pictures, pictures[0].name))
    except (tarfile.TarError, OSError, ValueError, TypeError) as error:
        raise Blip3oError(f"{file} cannot be read as an uncompressed .tar shard: {error}. Make it again.") from error
    return items


class ShuffledOrder:
    """Which item each row of each step shows: every epoch its own permutation, a function of the position alone."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self._epoch, self._permutation = count, seed, None, []

    def index(self, position: int) -> int:
        """Item of the row that is `position`-th since the beginning of the run."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            generator = torch.Generator("cpu").manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.count, generator=generator).tolist()
        return self._permutation[place]
