"""Contact sheets: grids of images with their captions, to look at."""

import textwrap
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def make_contact_sheet(
    images: Iterable[np.ndarray], captions: Iterable[str], columns: int = 6, width: int = 192, letters: int = 10
) -> np.ndarray:
    """(H, W, 3) uint8 images of any size -> one image, each `width` px wide over its caption of `letters` px height."""
    images, line_height = list(images), round(1.1 * letters)
    texts = [textwrap.wrap(text, int((width - 4) / (0.6 * letters))) for text in captions]
    lines = max(len(text) for text in texts)
    heights = [round(width * image.shape[0] / image.shape[1]) for image in images]
    cell = width + 8, max(heights) + line_height * lines + letters
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (cell[0] * min(columns, len(images)), cell[1] * rows), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(letters)
    for index, (image, text, height) in enumerate(zip(images, texts, heights, strict=True)):
        left, top = cell[0] * (index % columns) + 4, cell[1] * (index // columns) + 4
        larger = width > image.shape[1]  # the squares of a small image stay squares
        how = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
        page.paste(Image.fromarray(image).resize((width, height), how), (left, top))
        for number, line in enumerate(text):
            pen.text((left, top + height + 2 + line_height * number), line, "black", font)
    return np.asarray(page)
