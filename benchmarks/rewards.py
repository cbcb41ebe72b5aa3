"""Built-in rewards: what they give images whose worth is known, and how long they take.

Text: words in the fonts that matplotlib brings, judged by the prompt they belong to (right; busy: on circles; small:
letters of 14 px), by the prompt of the next image (wrong), with a line of other words below (surplus), and noise
without words.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards

from .machine import timed

SIDE, COUNT, SEED = 512, 7, 5
WORDS = "open fresh bread coffee sunday market library garden winter music bridge north river summer night".split()
CLASSES = ("right", "busy", "small", "wrong", "surplus", "noise")
READERS = (("spans", 512), ("spans", 736), ("spans", 320), ("authors", 512))  # the rule, and px of the shorter side


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """On the CPU, whatever the device: rapidocr's networks run there."""
    count = 3 if quick else COUNT
    sets = {name: text_images(name, count) for name in CLASSES}
    return [_row(rule, side, sets, device) for rule, side in READERS]


def _row(rule: str, side: int, sets: dict[str, Candidates], device: torch.device) -> dict:
    mix = load_rewards([{"name": "text", "options": {"rule": rule, "side": side}}])
    mix.score(Candidates(sets["right"].images[:1], sets["right"].prompts[:1]))  # loads
    found: dict[str, list[float | None]] = {}
    seconds = timed(
        lambda: found.update({name: mix.score(images).parts["text"] for name, images in sets.items()}), device
    )
    means = {name: float(np.mean([value for value in values if value is not None])) for name, values in found.items()}
    images = sum(len(values) for values in found.values())
    return {
        "reward": "text",
        "rule": rule,
        "side": side,
        **means,
        "ms_per_image": 1000 * seconds / images,
        "images": images,
    }


def text_images(name: str, count: int) -> Candidates:
    """Images of one class, with the prompts that they are judged by."""
    images, prompts = [], []
    for index in range(count):
        rng = np.random.default_rng([SEED, index])
        text = " ".join(rng.choice(WORDS, rng.integers(1, 4), replace=False)).title()
        other = " ".join(rng.permutation(WORDS)[:3])
        lines = [text, other] if name == "surplus" else [text]
        image = noise(rng) if name == "noise" else written(lines, rng, name)
        images.append(torch.from_numpy(np.asarray(image, np.float32) / 255))
        prompts.append(f'a sign that says "{text}"')
    return Candidates(images, prompts[1:] + prompts[:1] if name == "wrong" else prompts)


def noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def written(lines: Sequence[str], rng: np.random.Generator, name: str = "right") -> Image.Image:
    """Dark lines of text on light ground, at random heights."""
    import matplotlib

    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(200, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(40 if name == "busy" else 0):
        x, y, radius = rng.integers(0, SIDE, 2).tolist() + [int(rng.integers(5, 60))]
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(rng.integers(120, 256, 3).tolist()))
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    font = str(fonts / rng.choice(["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"]))
    for place, line in enumerate(lines):
        size = 14 if name == "small" else min(int(rng.integers(28, 72)), 700 // len(line))
        top = int(rng.integers(20, SIDE // 2 - 90)) + place * SIDE // 2
        pen.text((int(rng.integers(8, 40)), top), line, tuple(rng.integers(0, 90, 3).tolist()),
                 ImageFont.truetype(font, size))  # fmt: skip
    return image
