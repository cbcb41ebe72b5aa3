"""The nine images of README and of `make demo`: prompts with textures and words, an edit, an image from two others."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.scenes.caption_reader import read_caption
from blip3o_core.tiny.scenes.spec import Spec
from tools.images.maker import Maker
from tools.images.page import INK, enlarged, sheet

PER_ROW, SIDE, LETTERS = 3, 256, 33  # images; px; letters in a line


@dataclass(frozen=True)
class Cell:
    words: str  # a prompt, or what becomes of other cells
    shows: str  # a caption of the image
    sources: tuple[int, ...] = ()  # the cells that are edited, counted from 1
    seed: int = 1

    @property
    def spec(self) -> Spec:
        spec = read_caption(self.shows)
        if spec is None:
            raise ValueError(f"{self.shows!r} is not a caption of the tiny world. Use the words of docs/tiny.md.")
        return spec


def prompt(words: str, seed: int = 1) -> Cell:
    return Cell(words, words, seed=seed)


# The words of the third name the first two: they are its image 1 and image 2.
NINE = (
    prompt("a striped red circle left of a green square"),
    prompt("a purple triangle left of a dotted blue star"),
    Cell(
        "the circle of image 1 and the star of image 2 on a yellow background",
        "a striped red circle and a dotted blue star on a yellow background",
        (1, 2),
    ),
    prompt("a pink star right of a yellow cross on a checked blue background", seed=3),
    Cell(
        "change the star to green",
        "a green star right of a yellow cross on a checked blue background",
        (4,),
        seed=3,
    ),
    prompt('the word "HELLO" in yellow on a blue background'),
    prompt("three pink circles on a striped green background"),
    prompt('the word "SUN" in red and a shaded yellow circle on a black background', seed=2),
    prompt("a large grainy purple star on an orange background"),
)


def label(number: int, cell: Cell) -> str:
    """`number` counts from 1. An edit of one image says which, one of two says it in its words."""
    words = f"image {cell.sources[0]}: {cell.words}" if len(cell.sources) == 1 else cell.words
    lines = textwrap.wrap(f"{number}. {words}", LETTERS)
    return "\n".join(lines)


def page(images: Sequence[np.ndarray], cells: Sequence[Cell] = NINE) -> Image.Image:
    """(H, W, 3) uint8 images, each over its words."""
    shown = [
        (enlarged(image, SIDE), label(k, cell)) for k, (image, cell) in enumerate(zip(images, cells, strict=True), 1)
    ]
    return sheet([shown[first : first + PER_ROW] for first in range(0, len(shown), PER_ROW)], second=INK)


def wrong(images: Sequence[np.ndarray], cells: Sequence[Cell] = NINE) -> dict[str, tuple[str, ...]]:
    """What the judge finds wrong, by the words."""
    found = {cell.words: judge_image(image, cell.spec).reasons for image, cell in zip(images, cells, strict=True)}
    return {words: reasons for words, reasons in found.items() if reasons}


def make(maker: Maker) -> list[np.ndarray]:
    """The images in their order, (H, W, 3) uint8."""
    images: list[np.ndarray] = []
    for cell in NINE:
        references = maker.references(*(images[number - 1] for number in cell.sources)) if cell.sources else None
        tokens = maker.tokens(cell.words, cell.seed, references)
        images.append(maker.image(tokens, cell.seed, references=references))
    return images


def nine(maker: Maker) -> Image.Image:
    """Raises RuntimeError if one of them is wrong: README says that all are right."""
    images = make(maker)
    if faults := wrong(images):
        raise RuntimeError(f"the judge finds wrong: {faults}. Give these cells another seed.")
    return page(images)
