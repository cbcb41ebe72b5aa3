"""Pictures on disk: whole or not at all, with the settings that make them again inside."""

import json
import tempfile
from pathlib import Path

import torch

from ..errors import Blip3oError
from ..files import atomic_write

KEY = "blip3o"


def check_writable(folder: Path, option: str = "--out") -> None:
    """Make the folder if needed and try to write in it, before any work is done for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Blip3oError(f"Results cannot be written to {folder}: {error}. Choose another {option}.") from error


def save_png(path: Path, image: torch.Tensor, settings: dict) -> None:
    """(H, W, 3) in [0, 1] -> PNG, rounded to 8 bits, `settings` as JSON under the text key `blip3o`.

    Written under a temporary name and renamed: `path` is never a partial file.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(KEY, json.dumps(settings, ensure_ascii=False))
    picture = Image.fromarray((image * 255).round().to(torch.uint8).cpu().numpy())
    try:
        with atomic_write(path) as scratch:
            picture.save(scratch, "PNG", pnginfo=info)
    except OSError as error:
        raise Blip3oError(f"{path} cannot be written: {error}. Choose another --out.") from error


def read_settings(path: Path) -> dict:
    """The settings that `save_png` put into a file."""
    from PIL import Image

    with Image.open(path) as picture:
        text = picture.text.get(KEY)
    if text is None:
        raise Blip3oError(f"{path} carries no {KEY} settings: it was not made by this program, or they were stripped.")
    return json.loads(text)


def is_made_with(path: Path, settings: dict) -> bool:
    """Whether `path` is a whole picture of this program, made with exactly these settings."""
    if not path.is_file():
        return False
    try:
        return read_settings(path) == json.loads(json.dumps(settings))
    except Exception:  # whatever Pillow says about a file that is no PNG, or half of one: it is made anew
        return False
