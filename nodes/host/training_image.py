"""What the training node shows while it runs: the curve of the reward, and the newest images under it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

Points = Sequence[tuple[int, float]]
WIDTH, CURVE, SAMPLES = 512, 200, 256  # pixels; the last is the most that the images take
_LEFT, _TOP, _BOTTOM, _RIGHT = 46, 22, 22, 10  # margins around the curve
_BACK, _INK, _GRID = "#1e1e22", "#c8c8d0", "#3a3a42"
_TRAINED, _MEASURED = "#7aa2f7", "#f7c67a"


def draw(rewards: Points, looks: Points, samples: Image.Image | None, updates: int) -> Image.Image:
    """`rewards`: of training, by update; `looks`: of the images that are measured with. `samples`: a row of images."""
    row = None if samples is None else ImageOps.contain(samples, (WIDTH, SAMPLES))
    image = Image.new("RGB", (WIDTH, CURVE + (row.height if row else 0)), _BACK)
    _curves(ImageDraw.Draw(image), rewards, looks, updates)
    if row is not None:
        image.paste(row, ((WIDTH - row.width) // 2, CURVE))
    return image


def _curves(pen: ImageDraw.ImageDraw, rewards: Points, looks: Points, updates: int) -> None:
    font = ImageFont.load_default()
    values = [value for _, value in (*rewards, *looks)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or 0.5
    low, high = low - room, high + room

    def place(step: int, value: float) -> tuple[float, float]:
        across = (WIDTH - _LEFT - _RIGHT) * step / updates
        return _LEFT + across, _TOP + (CURVE - _TOP - _BOTTOM) * (high - value) / (high - low)

    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        start, end = place(0, value), place(updates, value)
        pen.line([start, end], fill=_GRID)
        pen.text((4, start[1] - 6), f"{value:.3g}", fill=_INK, font=font)
    pen.text((_LEFT, CURVE - 16), "0", fill=_INK, font=font)
    pen.text((WIDTH - _RIGHT, CURVE - 16), str(updates), fill=_INK, font=font, anchor="ra")
    pen.text((_LEFT, 4), "reward: in training", fill=_TRAINED, font=font)
    pen.text((_LEFT + 130, 4), "on the prompts to measure with", fill=_MEASURED, font=font)
    for points, colour, wide in ((rewards, _TRAINED, 1), (looks, _MEASURED, 3)):
        dots = [place(*point) for point in points]
        if len(dots) > 1:
            pen.line(dots, fill=colour, width=wide)
        for x, y in dots if len(dots) < 40 else ():
            pen.ellipse((x - wide, y - wide, x + wide, y + wide), fill=colour)
