"""The one reader of image files: bytes of any format -> upright pixels of 8 bits a channel, in sRGB.

`edit`, `reconstruct` and training read through here, so that a file means the same everywhere. Pillow decodes; what it
leaves to its callers is done here: greys of more than 8 bits, turning, colour profiles, limits on size.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Blip3oError, first_line, shown
from ..files import read_bytes
from .limits import MAX_SIDE
from .png_rows import lacks_rows

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PillowImage

# Raise it with every change to the pixels that some file gives: it is in the keys of caches of what was made from them.
VERSION = 2
MAX_BYTES = 2**30
MAX_PIXELS = 178_956_970  # where Pillow refuses, unless the process told it otherwise
# Formats with pixels only: EPS starts another program, vector formats have no size, raw headers match any bytes.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "PPM", "ICO")
REMEDY = "Give an undamaged PNG, JPEG or WebP file."
_ORIENTATION = 0x0112
_SAME_COLOURS = 2  # of 255: a profile that moves no colour further is sRGB, and the numbers stay as they are
# The modes of Pillow whose numbers a profile of that colour space can be about, and the mode it is applied in.
_SPACES = {
    "RGB ": ("RGB", ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr")),
    "GRAY": ("L", ("1", "L", "LA", "La")),
    "CMYK": ("CMYK", ("CMYK",)),
}


@dataclass(frozen=True)
class Stored:
    """An image as its file holds it, before anything is turned or scaled down."""

    format: str  # such as JPEG
    mode: str  # Pillow's name of the kind of pixels, such as CMYK or I;16
    width: int  # pixels
    height: int
    turned: bool = False  # by EXIF: its upright width is the stored height


@dataclass(frozen=True)
class ReadImage:
    """The first image in a file, upright, in sRGB: RGBA where it may be transparent, else RGB."""

    pixels: "PillowImage"
    stored: Stored
    remarks: tuple[str, ...] = ()  # what happened to its colours or its orientation, for the user

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the whole image, upright, also where it was read smaller."""
        width, height = self.stored.width, self.stored.height
        return (height, width) if self.stored.turned else (width, height)

    def on_white(self) -> "PillowImage":
        """RGB; what is transparent becomes white."""
        from PIL import Image

        if self.pixels.mode == "RGB":
            return self.pixels
        return Image.alpha_composite(Image.new("RGBA", self.pixels.size, "white"), self.pixels).convert("RGB")


def open_image(path: Path):
    """An image from a file: upright, RGB on white, the first frame of an animation."""
    return read_image(image_bytes(path), str(path)).on_white()


def open_mask(path: Path) -> "torch.Tensor":
    """(H, W) float32 in [0, 1] from a file, see `read_mask`."""
    return read_mask(image_bytes(path), str(path))


def image_bytes(path: Path, remedy: str = REMEDY) -> bytes:
    """All bytes of an image file."""
    return read_bytes(Path(path), remedy, MAX_BYTES)


def read_mask(data: bytes, name: str) -> "torch.Tensor":
    """(H, W) float32 in [0, 1] from a file without transparency: white is where to change, greys are in between."""
    from .preprocess import to_tensor

    # Its numbers are weights, not colours: a profile says nothing about them.
    image = read_image(data, name, colours=False).pixels
    if image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255:
        # It may be what was erased or what was not painted; the two mean opposite masks.
        raise Blip3oError(
            f"The mask {shown(name)} is partly transparent, so it is not clear which part to change. Save it without "
            "transparency: white where the image may change, black elsewhere."
        )
    return to_tensor(image.convert("L"))[0, :, :, 0]


def read_image(
    data: bytes, name: str, remedy: str = REMEDY, colours: bool = True, least_side: int | None = None
) -> ReadImage:
    """The bytes of a file -> its first image. Raises Blip3oError, which names `name` and ends with `remedy`.

    `colours`: convert them to sRGB from the profile in the file. `least_side`: a JPEG may be decoded smaller, by 2, 4
    or 8, as long as its sides keep this many pixels; that takes a part of the time.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    if not data:
        raise Blip3oError(f"{shown(name)} is empty: it has 0 bytes. {remedy}")
    try:
        with Image.open(io.BytesIO(data), formats=[each for each in FORMATS if each in Image.OPEN]) as opened:
            check_size(opened.width, opened.height, name)
            read = _decoded(opened, colours, least_side)
            if opened.format == "PNG" and lacks_rows(data, opened):
                raise ValueError("its pixels end before its last row")
            # An icon may hold an image of another size than it says.
            check_size(read.pixels.width, read.pixels.height, name)
            return read
    except Blip3oError:
        raise
    except UnidentifiedImageError:
        reason = "it is in no format that can be read (PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP), or its start is damaged"
    except Image.DecompressionBombError:
        reason = f"it has more than {MAX_PIXELS // 10**6} million pixels; scale it down first"
    except MemoryError:
        reason = "there is not enough memory to decode it; scale it down first"
    except Exception as error:  # whatever a decoder says about a damaged file
        reason = first_line(error).rstrip(".")
        if "MAX_TEXT" in reason:
            reason = "a text or a colour profile inside it has more than a megabyte; save it without"
    raise Blip3oError(f"Cannot read {shown(name)} ({len(data):,} bytes) as an image: {reason}. {remedy}")


def check_size(width: int, height: int, name: str) -> None:
    """Raise Blip3oError for an image that nothing here takes."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise Blip3oError(
            f"{shown(name)} is {width}x{height}. A side may have 1 to {MAX_SIDE} pixels, and an image at most "
            f"{MAX_PIXELS // 10**6} million; scale the image down first."
        )


def _decoded(opened, colours: bool, least_side: int | None) -> ReadImage:
    raw = opened.tile[0][3] if opened.tile else None  # Pillow's name of how the file holds the pixels
    profile = opened.info.get("icc_profile") if colours else None
    whites = _largest_value(opened)
    whole = opened.size
    if least_side:
        opened.draft(None, (least_side, least_side))
    smaller = opened.size != whole
    opened.load()
    turn, remarks = _orientation(opened)
    width, height = whole if smaller else opened.size
    stored = Stored(opened.format, opened.mode, width, height, turn in _sideways())
    _scale_colour_key(opened, raw)
    image = _to_8_bit(opened, *whites)
    clear = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    plain = image.convert("RGBA" if clear else "RGB")
    if profile:
        converted, remark = _to_srgb(image, plain, profile)
        remarks += remark
        if converted is not None and clear:
            converted.putalpha(plain.getchannel("A"))
        plain = converted or plain
    return ReadImage(plain if turn is None else plain.transpose(turn), stored, remarks)


def _orientation(image) -> tuple:
    """(what turns the loaded image upright, or None; remarks). A block of EXIF that cannot be read is none."""
    from PIL.Image import Exif, Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        if "exif" in image.info:
            Exif().load(image.info["exif"])  # `getexif` refuses a damaged block the first time, and gives nothing later
        return turns.get(image.getexif().get(_ORIENTATION)), ()
    except Exception:  # the pixels are whole, whatever Pillow says about the block
        return None, ("not turned: its EXIF block is damaged",)


def _sideways() -> tuple:
    from PIL.Image import Transpose

    return Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90


def _largest_value(image) -> tuple[int, bool]:
    """(the number of white in greys of more than 8 bits, or of black where the file says so; whether it is black)."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF: Pillow neither scales 12 bits nor inverts 16
    bits = tags.get(258, (16,))
    return 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1, tags.get(262) == 0


def _scale_colour_key(image, stored) -> None:
    """Pillow leaves the transparent colour of a PNG in the bits of the file, and compares it with those of 8 bits."""
    key = image.info.get("transparency")
    if key is None:
        return
    if stored in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[stored]
    elif stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _to_8_bit(image, largest: int, inverted: bool):
    """Scales greys of more than 8 bits; Pillow would cut them off at 255."""
    import numpy as np
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its values have 32 bits, so it is not known which value is white; save it with 8 or 16 bits")
    values = np.asarray(image).astype(np.int64)
    scaled = (values * 255 + largest // 2) // largest
    grey = Image.fromarray((255 - scaled if inverted else scaled).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _to_srgb(image, plain, profile: bytes) -> tuple:
    """(the colours of `image` as sRGB, or None where the numbers may stay; remarks). `plain`: it as RGB or RGBA."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space, name = source.profile.xcolor_space, ImageCms.getProfileDescription(source).strip()
        mode, modes = _SPACES.get(space, ("", ()))
        if image.mode == "LAB":  # already converted, by what these numbers mean without any profile
            return None, ()
        if image.mode not in modes:
            return None, (f"its colour profile is for {space.strip()} and was ignored",)
        target = ImageCms.createProfile("sRGB")
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(source, target, mode, "RGB", intent, flags)
        if mode != "CMYK" and _is_srgb(transform, mode):
            return None, ()
        colours = image if mode == "CMYK" else plain.convert("RGB").convert(mode)
        return ImageCms.applyTransform(colours, transform), (f"converted from {shown(name, 60) or space} to sRGB",)
    except Exception:  # whatever is wrong with a profile, the pixels are whole
        return None, ("its colour profile is damaged and was ignored",)


def _is_srgb(transform, mode: str) -> bool:
    """Whether a transform to sRGB changes no colour visibly."""
    import numpy as np
    from PIL import Image, ImageCms

    steps = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        probe = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1)[None]
    else:
        probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    seen = ImageCms.applyTransform(Image.fromarray(probe).convert(mode), transform)
    return int(np.abs(np.asarray(seen).astype(int) - probe).max()) <= _SAME_COLOURS
