"""Pictures for tests of the command line, and the commands stored in them."""

import shlex
from pathlib import Path

import torch
from PIL import Image

from blip3o_core.cli.main import main
from blip3o_core.images.png import read_settings


def noise(width: int, height: int, mode: str = "RGB", seed: int = 3) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (height, width, len(mode)), generator=generator, dtype=torch.uint8)
    return Image.frombytes(mode, (width, height), data.numpy().tobytes())


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(*picture.size[::-1], 3)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def made_again(path: Path, model: Path, inputs: dict[str, Path]) -> torch.Tensor:
    """What the command stored in an image makes."""
    words = shlex.split(read_settings(path)["command"])
    assert words[0] == "blip3o"
    inputs = {**inputs, "OUT.png": path.with_name("again.png"), "--checkpoint=DIR": f"--checkpoint={model}"}
    for name, filled in inputs.items():
        words = [word.replace(name, str(filled)) if word.endswith(name) else word for word in words]
    assert main(words[1:]) == 0
    return pixels(path.with_name("again.png"))
