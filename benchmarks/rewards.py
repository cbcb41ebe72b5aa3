"""Built-in rewards: what they give images whose worth is known, and how long they take.

Text: words in the fonts that matplotlib brings, judged by the prompt they belong to (right; busy: on circles; small:
letters of 14 px), by the prompt of the next image (wrong), with a line of other words below (surplus), and noise
without words.
Consistency: a square of a busy image is inverted; then noise is added, or all is shifted; the next image instead;
nothing done.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from blip3o_core.rewards.mix import RewardMix

from .machine import timed

SIDE, COUNT, SEED = 512, 7, 5
WORDS = "open fresh bread coffee sunday market library garden winter music bridge north river summer night".split()
CLASSES = ("right", "busy", "small", "wrong", "surplus", "noise")
READERS = (("spans", 512), ("spans", 736), ("spans", 320), ("authors", 512))  # the rule, and px of the shorter side


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """On the CPU, whatever the device: rapidocr's networks run there."""
    count = 3 if quick else COUNT
    texts, edits = {name: text_images(name, count) for name in CLASSES}, edited_images(count)
    rows = [row for rule, side in READERS for row in _rows("text", {"rule": rule, "side": side}, texts, device)]
    return rows + _rows("consistency", {}, edits, device)


def _rows(name: str, options: dict, sets: dict[str, Candidates], device: torch.device) -> list[dict]:
    mix = load_rewards([{"name": name, "options": options}])
    first = next(iter(sets.values()))
    mix.score(replace(first, **{field.name: getattr(first, field.name)[:1] for field in fields(first)}))  # loads
    rows = []
    for images, candidates in sets.items():
        found: list[float | None] = []
        seconds = timed(partial(_score, mix, candidates, found), device)
        mean = float(np.mean([value for value in found if value is not None]))
        text = " ".join(map(str, options.values()))
        rows.append({"reward": f"{name} {text}".strip(), "of": images, "mean": mean,
                     "ms_per_image": 1000 * seconds / len(found), "images": len(found)})  # fmt: skip
    return rows


def _score(mix: RewardMix, candidates: Candidates, found: list[float | None]) -> None:
    (part,) = mix.parts
    found += mix.score(candidates).parts[part.name]


def edited_images(count: int) -> dict[str, Candidates]:
    """Edits of one square, by what was done to them."""
    sources = text_images("busy", count).images
    mask = torch.zeros(SIDE, SIDE)
    mask[150:350, 150:350] = 1
    edits = [torch.where(mask[..., None] > 0, 1 - image, image) for image in sources]
    random = torch.Generator().manual_seed(SEED)
    cases = {
        "perfect edit": edits,
        "with noise": [(edit + 0.02 * torch.randn(edit.shape, generator=random)).clamp(0, 1) for edit in edits],
        "shifted by 6 px": [edit.roll(6, 1) for edit in edits],
        "other image": [*sources[1:], sources[0]],
        "no edit": sources,
    }
    prompts, masks, references = ["invert the square"] * count, [mask] * count, [[image] for image in sources]
    return {name: Candidates(images, prompts, references, masks) for name, images in cases.items()}


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
