"""What the curating node shows: images that were kept, and images that were dropped for each reason."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ...blip3o_core.curation.features import FEATURES
from ...blip3o_core.curation.report import title_of
from ...blip3o_core.curation.results import Example, Results
from ...blip3o_core.curation.select import KEPT

WIDTH, COLUMNS = 640, 6
MOST = {True: 12, False: 6}  # images of what is kept, of each reason
_TILE = WIDTH // COLUMNS  # pixels
_HEAD, _FOOT, _GAP = 30, 22, 4  # a line of words, the line under an image, around an image
_LETTERS, _SMALL = 20, 16  # pixels: the node shows the sheet at half its size
_BACK, _EMPTY, _INK = "#1e1e22", "#3a3a42", "#c8c8d0"
_COLOURS = {True: "#9ece6a", False: "#f7768e"}  # of the lines of what is kept, of each reason


def draw(results: Results) -> Image.Image:
    """What was kept, and under it a block for each reason with a few of its images and the value that decided."""
    reasons = sorted(results.reasons.items(), key=lambda one: (-one[1], one[0]))
    blocks = [
        _block(f"{title_of(reason)}: {count:,}", [one for one in results.examples if one.reason == reason], False)
        for reason, count in reasons
        if reason != KEPT
    ]
    kept = _block(f"kept: {results.kept:,}", [one for one in results.examples if one.reason == KEPT], True)
    rows = [[kept], *([[_block(f"dropped: {results.dropped:,}", [], False)]] if blocks else []), *_rows(blocks)]
    sheet, top = Image.new("RGB", (WIDTH, sum(max(one.height for one in row) for row in rows)), _BACK), 0
    for row in rows:
        left = 0
        for block in row:
            sheet.paste(block, (left, top))
            left += block.width
        top += max(block.height for block in row)
    return sheet


def _rows(blocks: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Blocks beside each other, as many as fit."""
    rows: list[list[Image.Image]] = []
    for block in blocks:
        if not rows or sum(one.width for one in rows[-1]) + block.width > WIDTH:
            rows.append([])
        rows[-1].append(block)
    return rows


def _block(words: str, examples: list[Example], kept: bool) -> Image.Image:
    examples = examples[: MOST[kept]]
    font, small = ImageFont.load_default(_LETTERS), ImageFont.load_default(_SMALL)
    needed = -(-round(font.getlength(words) + 2 * _GAP) // _TILE)
    columns = min(COLUMNS, max(len(examples), needed))
    high = _TILE + (0 if kept else _FOOT)
    block = Image.new("RGB", (columns * _TILE, _HEAD + -(-len(examples) // COLUMNS) * high), _BACK)
    pen = ImageDraw.Draw(block)
    pen.text((_GAP, 2), words, fill=_COLOURS[kept], font=font)
    for number, one in enumerate(examples):
        left, top = number % COLUMNS * _TILE, _HEAD + number // COLUMNS * high
        tile = _thumbnail(one, _TILE - 2 * _GAP)
        block.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
        pen.text((left + _GAP, top + _TILE), _said(one), fill=_INK, font=small)
    return block


def _thumbnail(one: Example, side: int) -> Image.Image:
    if not one.image:
        return Image.new("RGB", (side, side), _EMPTY)
    with Image.open(io.BytesIO(one.image)) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    return small


def _said(one: Example) -> str:
    """The feature that decided, beside its limit; of other reasons nothing."""
    if one.reason not in FEATURES or not isinstance(one.value, int | float):
        return ""
    return f"{_number(one.value)} {'<' if one.value < one.limit else '>'} {_number(one.limit)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
