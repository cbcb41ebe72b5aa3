"""What a reward server and its clients say to each other: docs/reward_servers.md describes it for other programs.

JSON only. Images are PNG with 8 bits a channel, which is what a saved image has; masks are grey PNG.
"""

import base64
import binascii
import io
import json
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image

from ..errors import Blip3oError, shown
from ..images.preprocess import to_images, to_tensor
from ..images.reader import read_image, read_mask
from .interface import Candidates

PROTOCOL = 1
PATH = "/v1/reward"
MAX_REFERENCES = 64  # of an image
_FIELDS = {"image", "prompt", "references", "mask", "meta"}
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Limits:
    """The most that one request may have."""

    images: int = 64  # to judge
    request_bytes: int = 64 * 2**20
    pixels: int = 64 * 10**6  # of all images, references and masks together

    def to_wire(self) -> dict:
        return asdict(self)


def check_protocol(content: Mapping[str, Any], who: str) -> None:
    """Raise Blip3oError unless a message is of this protocol. `who` sent it."""
    if content.get("protocol") != PROTOCOL:
        raise Blip3oError(
            f"{who} speaks protocol {shown(repr(content.get('protocol')))}; this program speaks {PROTOCOL}. Use "
            "programs of the same version, and check the address."
        )


# --- the client's side ---------------------------------------------------------------------------------------


def pack(candidates: Candidates, place: int) -> tuple[dict, int]:
    """Image `place` with what it is judged by, as JSON values, and how many pixels all of it has."""
    name = f"image {place + 1}"
    mask = candidates.masks[place]
    pictures = [candidates.images[place], *candidates.references[place], *([] if mask is None else [mask])]
    item = {
        "image": _to_wire(candidates.images[place], name),
        "prompt": candidates.prompts[place],
        "references": [_to_wire(each, f"a reference of {name}") for each in candidates.references[place]],
        "mask": None if mask is None else _to_wire(mask[:, :, None], f"the mask of {name}", "L"),
        "meta": _plain(candidates.meta[place], name),
    }
    return item, sum(each.shape[0] * each.shape[1] for each in pictures)


def _to_wire(image: torch.Tensor, name: str, mode: str = "RGB") -> str:
    """(H, W, C) in [0, 1] -> a PNG as base64 text, rounded to 8 bits."""
    return base64.b64encode(png_of(to_images(image[None], name)[0].convert(mode))).decode()


def png_of(image: Any) -> bytes:
    """A PIL image as a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _plain(meta: Mapping[str, Any], name: str) -> dict:
    try:
        return json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Blip3oError(
            f"What is known about {name} cannot be sent as JSON: {shown(error)}. Use text, finite numbers, lists and "
            "mappings only."
        ) from error


# --- the server's side ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unpacked:
    """The images that could be read, at their `places` in the request, and why the others could not."""

    candidates: Candidates
    places: list[int]
    errors: dict[int, str]
    count: int


def unpack(content: Any, limits: Limits) -> Unpacked:
    """A request as images. Raises Blip3oError where all of it is refused; an image that alone is wrong is an error."""
    if not isinstance(content, dict):
        raise Blip3oError("The request is not a JSON object.")
    check_protocol(content, "The client")
    items = content.get("items")
    if not isinstance(items, list):
        raise Blip3oError("The request lacks the list 'items'.")
    if len(items) > limits.images:
        raise TooMuch(f"The request has {len(items)} images; this server takes {limits.images} at once.")
    left = _Pixels(limits.pixels)
    rows: dict[int, tuple] = {}
    errors: dict[int, str] = {}
    for place, item in enumerate(items):
        try:
            rows[place] = _row(item, f"image {place + 1}", left)
        except TooMuch:
            raise
        except Blip3oError as error:
            errors[place] = str(error)
    columns = list(zip(*rows.values(), strict=True)) if rows else [()] * 5
    return Unpacked(Candidates(*columns), list(rows), errors, len(items))


class TooMuch(Blip3oError):
    """A request beyond the limits."""


class _Pixels:
    def __init__(self, most: int):
        self.most = self.left = most

    def take(self, data: bytes, name: str) -> None:
        """Count the pixels of a PNG by its header, before anything is unpacked."""
        if data[:8] != _PNG or len(data) < 33:
            raise Blip3oError(f"{name} is not a PNG file.")
        width, height = struct.unpack(">II", data[16:24])
        self.left -= width * height
        if self.left < 0:
            raise TooMuch(f"The request has more than {self.most:,} pixels; {name} alone has {width}x{height}.")
        if _size(data) not in (None, (width, height)):
            raise Blip3oError(f"{name} is not a PNG file: it says its size twice, or not at its beginning.")


def _size(data: bytes) -> tuple[int, int] | None:
    """The width and height that Pillow would unpack: it takes the last header, wherever it stands. None: it cannot."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            return opened.size
    except Exception:  # of many kinds; whoever reads the image says what is wrong with it
        return None


def _row(item: Any, name: str, left: _Pixels) -> tuple:
    """(image, prompt, references, mask, meta) of one item."""
    if not isinstance(item, dict):
        raise Blip3oError(f"{name} is not a JSON object.")
    if unknown := sorted(set(item) - _FIELDS):
        raise Blip3oError(f"{name} has the field {shown(unknown[0])!r}, which this protocol does not have.")
    prompt, references, meta = item.get("prompt"), item.get("references", []), item.get("meta", {})
    if not isinstance(prompt, str):
        raise Blip3oError(f"{name} lacks the text 'prompt'.")
    if not isinstance(references, list) or len(references) > MAX_REFERENCES:
        raise Blip3oError(f"'references' of {name} is not a list of at most {MAX_REFERENCES} images.")
    if not isinstance(meta, dict):
        raise Blip3oError(f"'meta' of {name} is not a JSON object.")
    mask = item.get("mask")
    return (
        _image(item.get("image"), name, left),
        prompt,
        [_image(each, f"reference {n} of {name}", left) for n, each in enumerate(references, 1)],
        None if mask is None else read_mask(_data(mask, f"the mask of {name}", left), f"the mask of {name}"),
        meta,
    )


def _image(text: Any, name: str, left: _Pixels) -> torch.Tensor:
    data = _data(text, name, left)
    # A profile or a turn would change the numbers that the client sent.
    return to_tensor(read_image(data, name, "Send an undamaged PNG.", colours=False).on_white())[0]


def _data(text: Any, name: str, left: _Pixels) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise Blip3oError(f"{name} is not base64 text.") from None
    left.take(data, name)
    return data


def range_to_wire(limits: tuple[float, float]) -> list[float | None]:
    """JSON has no infinity: null stands for it."""
    return [each if math.isfinite(each) else None for each in limits]


def range_from_wire(value: Any) -> tuple[float, float] | None:
    """None where it is no range."""
    if not isinstance(value, list) or len(value) != 2 or not all(each is None or is_number(each) for each in value):
        return None
    low = -math.inf if value[0] is None else float(value[0])
    high = math.inf if value[1] is None else float(value[1])
    return (low, high) if low < high else None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def values_to_wire(values: Sequence[float | None | str]) -> list:
    """Text is what went wrong with one image."""
    return [{"error": each} if isinstance(each, str) else each for each in values]
