"""What a training node shows while it runs: curves by step, and the newest images under them."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

Point = tuple[int, float]
WIDTH, CURVE, SAMPLES = 512, 220, 256  # pixels; the last is the most that the images take
_LEFT, _TOP, _BOTTOM, _RIGHT = 60, 30, 26, 10  # margins around the curve
_LETTERS = 16  # pixels: the node shows the image at half its size
_BACK, _INK, _GRID = "#1e1e22", "#c8c8d0", "#3a3a42"
_COLOURS, _WIDTHS = {True: "#f7c67a", False: "#7aa2f7"}, {True: 3, False: 1}  # True: of the main curve


@dataclass(frozen=True)
class Curve:
    label: str
    points: Sequence[Point]  # (step, value)
    is_main: bool = False


def draw(curves: Sequence[Curve], samples: Image.Image | None, steps: int) -> Image.Image:
    """`samples`: a row of images."""
    row = None if samples is None else ImageOps.contain(samples, (WIDTH, SAMPLES))
    image = Image.new("RGB", (WIDTH, CURVE + (row.height if row else 0)), _BACK)
    _draw_curves(ImageDraw.Draw(image), curves, steps)
    if row is not None:
        image.paste(row, ((WIDTH - row.width) // 2, CURVE))
    return image


def _draw_curves(pen: ImageDraw.ImageDraw, curves: Sequence[Curve], steps: int) -> None:
    font = ImageFont.load_default(_LETTERS)
    values = [value for curve in curves for _, value in curve.points]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or 0.5
    low, high = low - room, high + room

    def place(step: int, value: float) -> tuple[float, float]:
        across = (WIDTH - _LEFT - _RIGHT) * step / steps
        return _LEFT + across, _TOP + (CURVE - _TOP - _BOTTOM) * (high - value) / (high - low)

    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        start, end = place(0, value), place(steps, value)
        pen.line([start, end], fill=_GRID)
        pen.text((4, start[1] - 10), f"{value:.3g}", fill=_INK, font=font)
    pen.text((_LEFT, CURVE - 22), "0", fill=_INK, font=font)
    pen.text((WIDTH - _RIGHT, CURVE - 22), str(steps), fill=_INK, font=font, anchor="ra")
    left = 4.0
    for curve in curves:
        colour, wide = _COLOURS[curve.is_main], _WIDTHS[curve.is_main]
        pen.text((left, 4), curve.label, fill=colour, font=font)
        left += pen.textlength(curve.label, font=font) + 20
        dots = [place(*point) for point in curve.points]
        if len(dots) > 1:
            pen.line(dots, fill=colour, width=wide)
        for x, y in dots if len(dots) < 40 else ():
            pen.ellipse((x - wide, y - wide, x + wide, y + wide), fill=colour)
