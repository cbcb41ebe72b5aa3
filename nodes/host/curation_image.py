"""What the curating node shows: images that were kept, and images that were dropped for each reason."""

import io

from PIL import Image, ImageDraw, ImageFont

from ...blip3o_core.curation.features import FEATURES
from ...blip3o_core.curation.report import title_of
from ...blip3o_core.curation.results import Example, Results
from ...blip3o_core.curation.select import KEPT

WIDTH, COLUMNS = 640, 5
MOST = {True: 10, False: 5}  # images of what is kept, of each reason
_TILE = WIDTH // COLUMNS  # pixels
_HEAD, _FOOT, _GAP = 26, 18, 4  # the line of a reason, the line under an image, around an image
_BACK, _EMPTY, _INK = "#1e1e22", "#3a3a42", "#c8c8d0"
_COLOURS = {True: "#9ece6a", False: "#f7768e"}  # of the lines of what is kept, of each reason


def draw(results: Results) -> Image.Image:
    """A line for each reason, with the count, and under it a few of the images with the value that decided."""
    parts = [
        _part(reason, count, [one for one in results.examples if one.reason == reason])
        for reason, count in sorted(results.reasons.items(), key=lambda one: (one[0] != KEPT, -one[1]))
    ]
    sheet, top = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), _BACK), 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def _part(reason: str, count: int, examples: list[Example]) -> Image.Image:
    kept = reason == KEPT
    examples = examples[: MOST[kept]]
    rows = -(-len(examples) // COLUMNS)
    part = Image.new("RGB", (WIDTH, _HEAD + rows * (_TILE + _FOOT)), _BACK)
    pen, font = ImageDraw.Draw(part), ImageFont.load_default()
    words = f"kept: {count:,}" if kept else f"dropped, {title_of(reason)}: {count:,}"
    pen.text((_GAP, 6), words, fill=_COLOURS[kept], font=font)
    for number, one in enumerate(examples):
        left, top = number % COLUMNS * _TILE, _HEAD + number // COLUMNS * (_TILE + _FOOT)
        side = _TILE - 2 * _GAP
        tile = _thumbnail(one, side)
        part.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
        pen.text((left + _GAP, top + _TILE), _said(one), fill=_INK, font=font)
    return part


def _thumbnail(one: Example, side: int) -> Image.Image:
    if not one.image:
        return Image.new("RGB", (side, side), _EMPTY)
    with Image.open(io.BytesIO(one.image)) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    return small


def _said(one: Example) -> str:
    """The feature that decided, and its limit; of other reasons nothing."""
    if one.reason not in FEATURES or not isinstance(one.value, int | float):
        return ""
    return f"{_number(one.value)} (limit {_number(one.limit)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
