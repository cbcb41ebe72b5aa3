"""PNG files that appear whole or not at all, with the settings that make the image again inside."""

import io
import json
from collections.abc import Collection
from pathlib import Path

import torch

from ..errors import Blip3oError, first_line, shown
from ..files import atomic_write, naming_failures, parse_json
from .reader import check_size, image_bytes

KEY = "blip3o"
_REMEDY = "Use the file as it was made."


def save_png(path: Path, image: torch.Tensor, settings: dict, replace: bool = True) -> None:
    """(H, W, 3) in [0, 1] -> PNG, rounded to 8 bits, `settings` as JSON under the text key `blip3o`.

    Raises Blip3oError when `path` cannot be written; it is then as it was before. `replace` False: raises NameTaken
    where it exists.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(KEY, _json(settings))
    pixels = (image * 255).round().to(torch.uint8).cpu().numpy()
    with naming_failures(path), atomic_write(path, replace=replace) as scratch:
        Image.fromarray(pixels).save(scratch, "PNG", pnginfo=info)


def _json(settings: dict) -> str:
    """The settings as JSON. A folder's name may hold bytes that are no text: only escaped they can be stored."""
    text = json.dumps(settings, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(settings)
    return text


def text_of(path: Path, key: str) -> str | None:
    """The text that a PNG keeps under `key`. Raises Blip3oError when the image is damaged or no PNG."""
    from PIL import Image

    data = image_bytes(path)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            check_size(image.width, image.height, str(path))
            return image.text.get(key)  # reads all pixels, so that half a file fails
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Blip3oError(f"{shown(path)} is not a whole PNG image: {first_line(error)}. {_REMEDY}") from error


def read_settings(path: Path) -> dict:
    """The settings that `save_png` put into a file. Raises Blip3oError when there are none, or the image is damaged."""
    text = text_of(path, KEY)
    settings = None if text is None else parse_json(text, f"The text {KEY} in {shown(path)}", _REMEDY)
    if not isinstance(settings, dict):
        raise Blip3oError(
            f"{shown(path)} contains no {KEY} settings. Another program wrote it, or removed them. {_REMEDY}"
        )
    return settings


def is_made_with(path: Path, settings: dict, ignored: Collection[str] = ()) -> bool:
    """Whether `path` is an undamaged image that this program made with these settings, all but those `ignored`."""
    if not path.is_file():
        return False
    try:
        stored = read_settings(path)
        wanted = json.loads(json.dumps(settings))
        return all(stored.get(name) == wanted.get(name) for name in {*stored, *wanted} - {*ignored})
    except Exception:  # whatever Pillow says about another format or half a file: the image is made again
        return False
