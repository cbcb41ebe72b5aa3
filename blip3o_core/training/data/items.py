"""Training items by position: folders with `items.jsonl`, webdataset-style .tar shards, packed files.

- An item without a caption is a reconstruction: the image is learnt from its own image tokens, which are not labels.
- An item with references is an edit: the target image follows from them and an instruction.
- Several captions or instructions of one item mean the same. One of them is chosen each time the item is used.
- A shard's index is read once and its members are read in place, so a shard can be read in any order.
"""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import Blip3oError
from .encoded import EncodedItem
from .image_source import IMAGE_SUFFIXES, ImageSource
from .packed import Captions, PackedItem, open_pack, read_captions


@dataclass(frozen=True)
class Item:
    captions: Captions  # empty for a reconstruction
    image: ImageSource
    references: tuple[ImageSource, ...] = ()

    @property
    def name(self) -> str:
        return self.image.name

    @property
    def num_references(self) -> int:
        return len(self.references)

    def encode(self, images) -> EncodedItem:
        """Codes and latents from `images`, an ImageEncoder."""
        codes, latents = zip(*map(images.encode, (self.image, *self.references)), strict=True)
        if not self.references:
            return EncodedItem(codes[0], latents[0])
        return EncodedItem(codes[0], latents[0], torch.stack(codes[1:]), torch.stack(latents[1:]))


def find_items(sources: tuple[str, ...]) -> list[Item | PackedItem]:
    """All items, in the order of the sources and of their lines or names. Raises Blip3oError when there are none."""
    items: list[Item | PackedItem] = []
    found: Sequence[Item | PackedItem]
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
                f"data names {source}, which is not a folder, a .tar shard or a packed .safetensors file. Check the "
                "path."
            )
        if not found:
            raise Blip3oError(
                f"{source} contains no images. Give a folder with items.jsonl or .tar shards, or a shard with images."
            )
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
            raise Blip3oError(
                f'Cannot read {where}: {line[:80]!r}. Write {{"image": path, "caption": text}}.'
            ) from None
        found = []
        for name in [image, *(images if isinstance(images, list) else [images])]:
            file = folder / str(name)
            if not file.is_file():
                raise Blip3oError(
                    f"{where} names {name!r}, but {file} does not exist. Write paths relative to {folder}."
                )
            found.append(ImageSource(file, str(file)))
        items.append(_item(entry, found, where))
    return items


def _item(entry: dict, images: list[ImageSource], where: str) -> Item:
    """A target image and its references, with the captions or instructions of `entry`."""
    edit = len(images) > 1
    instructions, captions = (read_captions(entry.get(name), where) for name in ("instruction", "caption"))
    if bool(instructions) != edit or (edit and captions):
        raise Blip3oError(
            f"{where} has {len(images) - 1} references and {', '.join(entry) or 'no text'}. An edit needs references "
            "and 'instruction' and no 'caption'. A plain image must not have 'instruction' or references."
        )
    return Item(instructions or captions, images[0], tuple(images[1:]))


def _shard(file: Path) -> list[Item]:
    """Members that share a name up to the first dot are one item.

    It has an image, .txt or .json (`caption`, `instruction`), and in edits .reference.png or .reference1.png, ...
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
                references = sorted(
                    kind for kind in members if kind.startswith(".reference") and kind.endswith(IMAGE_SUFFIXES)
                )
                found = [target, *(members[kind] for kind in references)]
                images = [ImageSource(file, f"{file}:{one.name}", one.offset_data, one.size) for one in found]
                entry = {}
                if ".txt" in members:
                    text = shard.extractfile(members[".txt"]).read().decode("utf-8")
                    entry = {"instruction" if references else "caption": text}
                elif ".json" in members:
                    entry = dict(json.loads(shard.extractfile(members[".json"]).read()))
                items.append(_item(entry, images, images[0].name))
    except (tarfile.TarError, OSError, ValueError, TypeError) as error:
        if isinstance(error, Blip3oError):
            raise
        raise Blip3oError(
            f"Cannot read {file} as an uncompressed .tar shard: {error}. Make the shard again."
        ) from error
    return items


class ShuffledOrder:
    """Which item each row of each step uses. Every epoch has its own permutation, a function of the position alone."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epoch: int | None = None  # of which `_permutation` is
        self._permutation: list[int] = []

    def index(self, position: int) -> int:
        """The item of a row; `position` counts rows from the beginning of the run."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            generator = torch.Generator("cpu").manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.count, generator=generator).tolist()
        return self._permutation[place]
