"""Sheets of images with words, in the font that Pillow brings."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, PALE = "white", (30, 30, 30), (110, 110, 110)
GAP = 14  # px


def text(pen: ImageDraw.ImageDraw, place: tuple[int, int], words: str, height: int = 17, colour=INK) -> None:
    pen.text(place, words, colour, font(height))


def font(height: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(height)


def enlarged(image: np.ndarray, side: int, blocks: bool = False) -> Image.Image:
    """`side` px wide; `blocks`: every pixel stays a square."""
    how = Image.Resampling.NEAREST if blocks else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((side, round(side * image.shape[0] / image.shape[1])), how)


def sheet(rows: list[list[tuple[Image.Image, str]]], line: int = 24, second: tuple = PALE) -> Image.Image:
    """Rows of images, each over its words; a line break starts a new line, in the colour `second`."""
    widths = [sum(image.width + GAP for image, _ in row) for row in rows]
    heights = [max(image.height + line * (words.count("\n") + 1) for image, words in row) + GAP for row in rows]
    page = Image.new("RGB", (max(widths) + GAP, sum(heights) + GAP), PAPER)
    pen, top = ImageDraw.Draw(page), GAP
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for image, words in row:
            page.paste(image, (left, top))
            for number, part in enumerate(words.split("\n")):
                text(pen, (left, top + image.height + 4 + number * (line - 4)), part, 15, second if number else INK)
            left += image.width + GAP
        top += height
    return page


def save(page: Image.Image, file: Path) -> None:
    page.save(file, quality=85, method=6)
