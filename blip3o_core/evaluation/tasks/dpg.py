"""DPG-Bench: 1,065 long prompts; a model that answers questions judges four images of each, which lie in one grid.

Source: github.com/TencentQQGYLab/ELLA, README.md and dpg_bench/compute_dpg_bench.py.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from ...errors import Blip3oError, shown
from ...images.png import is_made_with, save_png
from ...images.preprocess import to_tensor
from ...images.reader import image_bytes, read_image
from ..interface import Item
from ..items import Entry, find_file, make_items, read_entries
from .options import read_options
from .prompts import PromptTask, Published

PUBLISHED = Published("TencentQQGYLab/ELLA", "3c228f1dc6c4d3cad0a47493816151a419f14db3", 1065, "d906ddd4b8d9ad21")
SIDE = 2  # images in a row and in a column of a grid
_FILES = ("dpg_bench/prompts", "prompts", "dpg_bench/dpg_bench.csv", "dpg_bench.csv")
_REMEDY = "Clone github.com/TencentQQGYLab/ELLA and give --data its folder, or its dpg_bench/prompts."


@dataclass(frozen=True)
class DPGBench(PromptTask):
    name: str = "dpg"
    samples: int = SIDE**2
    apart: bool = True  # single images lie below `samples`, the grids below `images`

    @property
    def published(self) -> Published:
        return PUBLISHED

    def file(self, item: Item, sample: int) -> PurePosixPath:
        return PurePosixPath(item.id) / f"{sample}.png"

    def check(self, samples: int, size: tuple[int, int] | None) -> None:
        if samples > SIDE**2:
            raise Blip3oError(f"A grid of DPG-Bench has {SIDE**2} images; --samples is {samples}. Give 1 to {SIDE**2}.")
        if size is not None and size[0] != size[1]:
            raise Blip3oError(
                f"DPG-Bench's scorer cuts squares from a grid; --size is {size[0]}x{size[1]}. Give a square one."
            )

    def finish(self, images: Path) -> None:
        images.mkdir(parents=True, exist_ok=True)
        for item in self.items:
            folder = images.parent / "samples" / item.id
            files = sorted(file for file in folder.glob("*.png") if file.stem.isdecimal())
            if files:  # not every run is of all items
                _write_grid(images / f"{item.id}.png", files)

    def official(self, images: Path) -> str:
        return f"""{self.published.note(self.items)}
# In a clone of github.com/TencentQQGYLab/ELLA. RESOLUTION: the side of one image in pixels, half of a grid's.
# It takes 8 GPUs; PROCESSES=N sets another number, from 2 on. Its results become text files among the images.
# It judges four images of a grid, black ones too: where --samples was not 4, write PIC_NUM=SAMPLES before the command.
bash dpg_bench/dist_eval.sh {shlex.quote(str(images))} RESOLUTION"""


def open_task(data: Path | None, options: Mapping[str, str]) -> DPGBench:
    read_options("dpg", options, {})
    return DPGBench(make_items(_once_each(read_entries(_source(data))), _item))


def _source(data: Path | None) -> Path:
    """The prompts of the repository `data`, or `data` itself where the text files lie in it."""
    if data is not None and data.is_dir() and not any((data / name).exists() for name in _FILES):
        if any(data.glob("*.txt")):
            return data
    return find_file(data, _FILES, _REMEDY)


def _once_each(entries: Sequence[Entry]) -> list[Entry]:
    """The first entry of each prompt: dpg_bench.csv has a row for each question about it."""
    first: dict[str, Entry] = {}
    for entry in entries:
        what = [entry.key, entry.values.get("item_id"), entry.values.get("text"), entry.fault and entry.place]
        first.setdefault(repr(what), entry)
    return list(first.values())


def _item(number: int, entry: Entry) -> Item:
    name, prompt = (entry.key, entry.text("prompt")) if entry.key else (entry.text("item_id"), entry.text("text"))
    if "." in name:
        raise Blip3oError(
            f"the name {shown(repr(name))} has a dot. DPG-Bench's scorer takes a name up to the first dot."
        )
    return Item(name, prompt)


def _write_grid(path: Path, files: Sequence[Path]) -> None:
    """The images as a grid of two columns, row by row, as the scorer cuts it; one image stays as it is."""
    if len(files) > SIDE**2:
        raise Blip3oError(
            f"{files[0].parent} has {len(files)} images; a grid of DPG-Bench has {SIDE**2}. Use --samples 4."
        )
    contents = [image_bytes(file) for file in files]
    made_of = {"grid_of": [hashlib.sha256(content).hexdigest() for content in contents]}
    if is_made_with(path, made_of):
        return
    images = [
        to_tensor(read_image(content, str(file)).on_white())[0] for content, file in zip(contents, files, strict=True)
    ]
    height, width = images[0].shape[:2]
    if height != width or any(image.shape != images[0].shape for image in images):
        sizes = " and ".join(sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images}))
        raise Blip3oError(
            f"DPG-Bench's scorer cuts squares of one size from a grid; {files[0].parent} has images of {sizes}. Use a "
            "square --size."
        )
    across = SIDE if len(images) > 1 else 1
    grid = torch.zeros(across * height, across * width, 3)
    for place, image in enumerate(images):
        row, column = divmod(place, across)
        grid[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    save_png(path, grid, made_of)
