"""Images -> what the two encoders see of them: TA-Tok a square, the autoencoder a canvas. `reader` reads files.

- `stretch`: both see all of the image; the square is distorted. `pad`: both see all of it; grey fills up the square.
- `crop`: both see the middle square. `authors`: the square is stretched and the canvas cropped (docs/reference.md 6.1).
- Everything is resized as 8 bits by Pillow, as the authors did: other resizing changes codes.

Functions take and give PIL images, RGB unless said otherwise.
"""

import math

import torch

from ..checks import require_finite
from ..errors import Blip3oError
from .limits import MAX_SIDE

FITS = ("stretch", "pad", "crop", "authors")
MAX_ASPECT = 8.0
_PAD_COLOR = (128, 128, 128)  # nearest to the 0 of both encoders


def check_images(batch: torch.Tensor, name: str) -> None:
    """Raise Blip3oError unless `batch` is images: (B, H, W, 1, 3 or 4) finite floats. `name`: what errors call it."""
    if not isinstance(batch, torch.Tensor):
        raise Blip3oError(f"{name} is of the type {type(batch).__name__}, not an image. Connect an image.")
    shape = list(batch.shape)
    if batch.ndim != 4 or shape[3] not in (1, 3, 4) or not batch.is_floating_point():
        raise Blip3oError(
            f"{name} is a {batch.dtype} tensor of shape {shape}. An image is a float tensor (batch, height, width, "
            "channels) with 1, 3 or 4 channels. Connect an image."
        )
    if 0 in shape:
        raise Blip3oError(
            f"{name} is empty: its shape is {shape}. The node that produced it gave no image. Connect another one."
        )
    if max(shape[1:3]) > MAX_SIDE:
        raise Blip3oError(
            f"{name} is {shape[2]}x{shape[1]}. The longer side may be at most {MAX_SIDE} pixels; scale the image down "
            "first."
        )
    require_finite(batch.detach(), name, "The node that produced it failed; run that node again.")


def to_images(batch: torch.Tensor, name: str = "image") -> list:
    """(B, H, W, 1, 3 or 4) floats -> a list of PIL images on white, rounded to 8 bits; values are clamped to [0, 1].

    `name` is what errors call the batch.
    """
    from PIL import Image

    check_images(batch, name)
    images = []
    for pixels in batch.detach():
        pixels = pixels.float().cpu().clamp(0, 1)
        if pixels.shape[2] == 4:
            pixels = pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:])
        rgb = (pixels * 255).round().to(torch.uint8).expand(-1, -1, 3).contiguous()
        images.append(Image.fromarray(rgb.numpy()))
    return images


def tokenizer_input(image, fit: str, side: int) -> torch.Tensor:
    """What TA-Tok sees of an image: (1, side, side, 3) in [0, 1]."""
    from PIL import Image

    _check_fit(fit)
    if fit == "crop":
        image = center_crop(image)
    elif fit == "pad":
        longer = max(image.size)
        square = Image.new("RGB", (longer, longer), _PAD_COLOR)
        square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
        image = square
    return resize_to_tensor(image, side, "BICUBIC")


def vae_input(image, fit: str, side: int, multiple: int) -> torch.Tensor:
    """What the autoencoder sees of an image: (1, h, w, 3) in [0, 1]; h and w are `side`, or come from `fit_size`."""
    from PIL import Image

    _check_fit(fit)
    if fit == "crop":
        return resize_to_tensor(center_crop(image), side, "BILINEAR")
    width, height = image.size
    if fit != "authors":
        return to_tensor(image.resize(fit_size(width, height, side, multiple), Image.Resampling.BILINEAR))
    _check_aspect(width, height)
    shorter = min(image.size)
    # int(), round() and this order are torchvision's; with others the crop is a pixel off.
    width, height = (side if length == shorter else int(side * length / shorter) for length in image.size)
    left, top = int(round((width - side) / 2.0)), int(round((height - side) / 2.0))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return to_tensor(resized.crop((left, top, left + side, top + side)))


def fit_size(width: int, height: int, side: int, multiple: int) -> tuple[int, int]:
    """(width, height) in multiples of `multiple`, near the image's aspect and near `side` * `side` pixels.

    Of the sizes around the exact one it is the one with the nearest aspect. A square gives (side, side).
    """
    _check_aspect(width, height)
    aspect = max(width, height) / min(width, height)
    exact = side / multiple * math.sqrt(aspect), side / multiple / math.sqrt(aspect)
    longs, shorts = ({max(1, math.floor(cells)), max(1, math.ceil(cells))} for cells in exact)

    def error(cells: tuple[int, int]) -> tuple[float, float]:
        area = cells[0] * cells[1] * (multiple / side) ** 2
        return abs(math.log(cells[0] / cells[1] / aspect)), abs(math.log(area))

    longer, shorter = (multiple * cells for cells in min(((a, b) for a in longs for b in shorts), key=error))
    return (longer, shorter) if width >= height else (shorter, longer)


def center_crop(image):
    """The middle square of an image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def limit_aspect(image):
    """The image, or the middle of one that is longer than MAX_ASPECT times its shorter side."""
    longest = int(MAX_ASPECT * min(image.size))
    width, height = (min(side, longest) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def resize_to_tensor(image, side: int, resample: str) -> torch.Tensor:
    """(1, side, side, 3) in [0, 1]. `resample`: a name in Pillow's `Image.Resampling`."""
    from PIL import Image

    return to_tensor(image.resize((side, side), getattr(Image.Resampling, resample)))


def to_tensor(image) -> torch.Tensor:
    """An image with 8-bit channels -> (1, H, W, C) in [0, 1]."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(1, image.height, image.width, -1) / 255


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise Blip3oError(f"fit is {fit!r}. Use one of {', '.join(FITS)}.")


def _check_aspect(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Blip3oError(
            f"The image is {width}x{height}. The longer side may be at most {MAX_ASPECT:g} times the shorter one. Crop "
            "the image first; in an edit without a mask, fit 'crop' does it, too."
        )
