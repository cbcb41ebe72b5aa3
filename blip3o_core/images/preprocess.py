"""Pictures of any kind -> what the two encoders see of them: TA-Tok a square, the autoencoder a canvas.

- `stretch`: all of the picture in both, in the square distorted. `pad`: all of it, in the square with grey beside it.
- `crop`: the middle square in both. `authors`: the square stretched and the canvas cropped (reference.md 6.1).
- Everything is resized as 8 bits by Pillow, as the authors did: other resizing changes codes.
"""

import math
from pathlib import Path

import torch

from ..errors import Blip3oError

FITS = ("stretch", "pad", "crop", "authors")
MAX_SIDE = 16384  # pixels
MAX_ASPECT = 8.0
_PAD_COLOR = (128, 128, 128)  # nearest to the 0 of both encoders


def open_image(path: Path):
    """A PIL picture from a file: upright, RGB on white, the first frame of an animation."""
    return _on_white(_open(Path(path)))


def open_mask(path: Path) -> torch.Tensor:
    """(H, W) float32 in [0, 1] from a file without transparency: white is where to change, greys are in between."""
    picture = _open(Path(path))
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema()[0] < 255:
        # It may be what was erased or what was not painted; the two mean opposite masks.
        raise Blip3oError(
            f"{path} is transparent in places. A mask is white where to change and black elsewhere: save it without "
            "transparency."
        )
    return to_tensor(picture.convert("L"))[0, :, :, 0]


def to_images(images: torch.Tensor, name: str = "image") -> list:
    """(B, H, W, 1, 3 or 4) in [0, 1] -> PIL pictures, RGB on white, rounded to 8 bits; beyond [0, 1] is cut off."""
    from PIL import Image

    shape = list(images.shape)
    if images.ndim != 4 or shape[3] not in (1, 3, 4) or 0 in shape or not images.is_floating_point():
        raise Blip3oError(
            f"{name} is {images.dtype} {shape}; it must be floats (B, H, W, C), with C 1, 3 or 4 and no size 0. "
            "Connect an image."
        )
    _check_sides(shape[2], shape[1], name)
    pictures = []
    for image in images.detach():
        image = image.float().cpu()
        if not bool(torch.isfinite(image).all()):
            raise Blip3oError(f"{name} holds NaN or infinite values; what made it failed. Make it again.")
        image = image.clamp(0, 1)
        if shape[3] == 4:
            image = image[..., :3] * image[..., 3:] + (1 - image[..., 3:])
        rgb = (image * 255).round().to(torch.uint8).expand(-1, -1, 3).contiguous()
        pictures.append(Image.fromarray(rgb.numpy()))
    return pictures


def tokenizer_input(picture, fit: str, side: int) -> torch.Tensor:
    """RGB PIL picture -> (1, side, side, 3) in [0, 1], what TA-Tok sees."""
    from PIL import Image

    _check_fit(fit)
    if fit == "crop":
        picture = _center_crop(picture)
    elif fit == "pad":
        longer = max(picture.size)
        ground = Image.new("RGB", (longer, longer), _PAD_COLOR)
        ground.paste(picture, ((longer - picture.width) // 2, (longer - picture.height) // 2))
        picture = ground
    return resize_to_tensor(picture, side, "BICUBIC")


def vae_input(picture, fit: str, side: int, multiple: int) -> torch.Tensor:
    """RGB PIL picture -> (1, h, w, 3) in [0, 1], what the autoencoder sees; h and w are `side` or from `fit_size`."""
    from PIL import Image

    _check_fit(fit)
    if fit == "crop":
        return resize_to_tensor(_center_crop(picture), side, "BILINEAR")
    if fit != "authors":
        return to_tensor(picture.resize(fit_size(*picture.size, side, multiple), Image.Resampling.BILINEAR))
    _check_aspect(*picture.size)
    shorter = min(picture.size)
    # int(), round() and this order are torchvision's; with others the crop is a pixel off.
    width, height = (side if length == shorter else int(side * length / shorter) for length in picture.size)
    left, top = int(round((width - side) / 2.0)), int(round((height - side) / 2.0))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return to_tensor(resized.crop((left, top, left + side, top + side)))


def fit_size(width: int, height: int, side: int, multiple: int) -> tuple[int, int]:
    """(width, height) in multiples of `multiple`, near the picture's aspect and near `side` * `side` pixels.

    Of the sizes around the exact one, that with the nearest aspect. Of a square (side, side).
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


def training_image(picture, fit: str):
    """A PIL picture, upright and on white: its middle square, or whole when it is to be stretched."""
    picture = _on_white(picture)
    return _center_crop(picture) if fit == "crop" else picture


def resize_to_tensor(picture, side: int, resample: str) -> torch.Tensor:
    """PIL picture -> (1, side, side, 3) in [0, 1]."""
    from PIL import Image

    return to_tensor(picture.resize((side, side), getattr(Image.Resampling, resample)))


def to_tensor(picture) -> torch.Tensor:
    """PIL picture of 8-bit channels -> (1, H, W, C) in [0, 1]."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(1, picture.height, picture.width, -1) / 255


def _center_crop(picture):
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _open(path: Path):
    """The first picture in a file, upright: RGBA where it may be transparent, else RGB."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            _check_sides(*opened.size, str(path))
            return _upright(_to_8_bit(opened))
    except Blip3oError:
        raise
    except Exception as error:  # whatever a decoder says about a damaged file
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        raise Blip3oError(
            f"{path} ({size}) is no picture that can be read: {error}. Give a whole PNG, JPEG or WebP file."
        ) from error


def _to_8_bit(picture):
    """Pillow cuts greys of 16 bits off at 255 instead of scaling them."""
    import numpy as np
    from PIL import Image, ImageOps

    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(ImageOps.exif_transpose(picture))
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its values have more than 16 bits, and which one is white is not known")
    grey = Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _upright(picture):
    from PIL import ImageOps

    picture = ImageOps.exif_transpose(picture)
    clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    return picture.convert("RGBA" if clear else "RGB")


def _on_white(picture):
    from PIL import Image

    picture = _upright(picture)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise Blip3oError(f"fit is {fit!r}; it must be one of {', '.join(FITS)}.")


def _check_sides(width: int, height: int, name: str) -> None:
    if max(width, height) > MAX_SIDE:
        raise Blip3oError(
            f"{name} is {width}x{height}; at most {MAX_SIDE} pixels a side are read. Scale it down first."
        )


def _check_aspect(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Blip3oError(
            f"A picture of {width}x{height} pixels is too long: at most {MAX_ASPECT:g} to 1. Crop it first, or use fit "
            "'crop'."
        )
