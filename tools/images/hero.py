"""The animation of the gallery: prompts become tokens, images, the same from another noise, and edits."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.scenes.spec import Expected, Spec
from blip3o_core.tokens.image_tokens import ImageTokens
from tools.images.maker import Maker
from tools.images.page import GAP, INK, PALE, PAPER, enlarged, font, text

SIDE, TOP, LINE = 200, 62, 30  # px: an image, the headings, the words under a row
NOISE, OTHER_NOISE = 1, 2
HEADINGS = (
    ("1. The language model", "writes image tokens"),
    ("2. Diffusion renders", "what they say"),
    ("New noise seed", "tokens: cached"),
    ("3. Edit by words", "the image is the reference"),
)
FRAME, HOLD, END = 70, 700, 4000  # milliseconds
TRIES = 50  # seeds


@dataclass(frozen=True)
class Row:
    prompt: str
    spec: Spec
    instruction: str
    edited: Spec


def _spec(background: str, *objects: str, relation=None) -> Spec:
    words = [each.split() for each in objects]
    return Spec(tuple(Expected(shape, colour) for colour, shape in words), background, relation)


ROWS = (
    Row(
        "a yellow star and a purple ring on a black background",
        _spec("black", "yellow star", "purple ring"),
        "change the purple ring to green",
        _spec("black", "yellow star", "green ring"),
    ),
    Row(
        "an orange triangle above a cyan square on a blue background",
        _spec("blue", "orange triangle", "cyan square", relation=(0, "above", 1)),
        "remove the cyan square",
        _spec("blue", "orange triangle"),
    ),
    Row(
        "three pink circles on a green background",
        _spec("green", *["pink circle"] * 3),
        "change the background to white",
        _spec("white", *["pink circle"] * 3),
    ),
)


@dataclass(frozen=True)
class Story:
    """A row with its results: the tokens, and the frames of each act."""

    row: Row
    tokens: ImageTokens
    rendered: list[np.ndarray]
    again: list[np.ndarray]
    edited: list[np.ndarray]


def tell(maker: Maker, row: Row) -> Story:
    """With the first token seed at which the judge accepts all three results."""
    for seed in range(TRIES):
        tokens = maker.tokens(row.prompt, seed)
        images = [maker.image(tokens, noise) for noise in (NOISE, OTHER_NOISE)]
        if not all(judge_image(image, row.spec).strict for image in images):
            continue
        references = maker.references(images[0])
        edit = maker.tokens(row.instruction, seed, references)
        if judge_image(maker.image(edit, NOISE, references=references), row.edited).strict:
            rendered, again = (maker.from_noise(tokens, noise) for noise in (NOISE, OTHER_NOISE))
            return Story(row, tokens, rendered, again, maker.from_noise(edit, NOISE, references))
    raise RuntimeError(f"No seed below {TRIES} gives {row.prompt!r} and its edit as the judge wants them.")


def write_hero(maker: Maker, file: Path) -> None:
    stories = [tell(maker, row) for row in ROWS]
    frames, milliseconds = zip(*_film(maker, stories), strict=True)
    frames[0].save(
        file, save_all=True, append_images=frames[1:], duration=list(milliseconds), loop=0, quality=70, method=6
    )  # fmt: skip


def _film(maker: Maker, stories: list[Story]) -> Iterator[tuple[Image.Image, int]]:
    """Frames, and how long each is shown."""
    page = _empty_page(stories)
    last = None
    for heading in range(len(HEADINGS)):
        _write_heading(page, heading)
        steps = _acts(maker, stories, heading)
        for number, images in enumerate(steps):
            for line, image in enumerate(images):
                page.paste(image, _place(heading, line))
            if heading == 3 and number == 0:
                _write_instructions(page, stories)
            last = page.copy()
            yield last, HOLD if number == len(steps) - 1 else FRAME
    yield last, END


def _acts(maker: Maker, stories: list[Story], heading: int) -> list[list[Image.Image]]:
    """The images of a column, from its first moment to its last: a list over the rows for each moment."""
    if heading == 0:
        count = stories[0].tokens.codes.shape[1]
        return [
            [enlarged(maker.as_mosaic(story.tokens, written), SIDE, blocks=True) for story in stories]
            for written in range(2, count + 1, 2)
        ]
    columns = [(story.rendered, story.again, story.edited)[heading - 1] for story in stories]
    return [[enlarged(frame, SIDE) for frame in frames] for frames in zip(*columns, strict=True)]


def _place(column: int, line: int) -> tuple[int, int]:
    return GAP + column * (SIDE + GAP), TOP + line * (SIDE + LINE + GAP)


def _empty_page(stories: list[Story]) -> Image.Image:
    width, height = _place(len(HEADINGS), len(stories))
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    for line, story in enumerate(stories):
        left, top = _place(0, line)
        text(pen, (left, top + SIDE + 5), f'"{story.row.prompt}"', 16)
        for column in range(len(HEADINGS)):
            left, top = _place(column, line)
            pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=(0, 0, 0) if column == 0 else (238,) * 3)
    return page


def _write_heading(page: Image.Image, heading: int) -> None:
    pen, left = ImageDraw.Draw(page), _place(heading, 0)[0]
    text(pen, (left, 10), HEADINGS[heading][0], 18, INK)
    text(pen, (left, 33), HEADINGS[heading][1], 16, PALE)


def _write_instructions(page: Image.Image, stories: list[Story]) -> None:
    pen = ImageDraw.Draw(page)
    right = _place(len(HEADINGS), 0)[0] - GAP
    for line, story in enumerate(stories):
        words = f'"{story.row.instruction}"'
        width = round(pen.textlength(words, font(16)))
        text(pen, (right - width, _place(0, line)[1] + SIDE + 5), words, 16)
