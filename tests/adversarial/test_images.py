"""Image and mask files that were damaged, made to do harm, or are of a kind that few programs write."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.attacks import Attack, attacks, check
from tests.support.image_files import DISPLAY_P3, chunk, icc_profile, png, tiff

BLACK = (b"\0" * 193) * 64  # the rows of an RGB image of 64x64
Made = bytes | Callable[[Path], None]


def saved(mode="RGB", size=(64, 64), color=0, format="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, format, **options)
    return file.getvalue()


def zeros(count: int, behind: bytes = b"") -> bytes:
    """`count` zero bytes, compressed without holding them."""
    maker, out = zlib.compressobj(9), []
    for start in range(0, count, 2**24):
        out.append(maker.compress(b"\0" * min(2**24, count - start)))
    return b"".join(out) + maker.compress(behind) + maker.flush()


def large(width: int, height: int, kind: int = 0, rows: int | None = None) -> bytes:
    """A black PNG of any size; `rows`: how many of them are there."""
    length = (1 + width * {0: 1, 2: 3}[kind]) * (height if rows is None else rows)
    head = png(width, height, b"", 8, kind)
    return head[:33] + chunk(b"IDAT", zeros(length)) + chunk(b"IEND", b"")


def head(width: int, height: int) -> bytes:
    return png(width, height, b"\0" * 1000, 8, 2)


def damaged(data: bytes, place: int, change: bytes) -> bytes:
    return data[:place] + change + data[place + len(change) :]


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(size)

    return make


def animation(format: str, frames: int) -> bytes:
    file = io.BytesIO()
    more = [Image.new("P", (64, 64), k % 256) for k in range(frames)]
    Image.new("P", (64, 64)).convert("RGB" if format == "PNG" else "P").save(
        file, format, save_all=True, append_images=more
    )
    return file.getvalue()


def icon_with_a_large_image() -> bytes:
    inner = large(20000, 20000, rows=1)
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 64, 64, 0, 0, 1, 32, len(inner), 22) + inner


def made(data: Made, path: Path) -> Path:
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        data(path)
    return path


def edit(data: Made, *more: str) -> Callable[[Path], list[str]]:
    def prepare(place: Path) -> list[str]:
        file = str(made(data, place / "x.img"))
        return ["edit", "--image", file, "--instruction", "make it blue", "--steps", "2", "--out", "out.png", *more]

    return prepare


def reconstruct(data: Made, *more: str) -> Callable[[Path], list[str]]:
    def prepare(place: Path) -> list[str]:
        return ["reconstruct", "--image", str(made(data, place / "x.img")), "--out", "out.png", "--steps", "2", *more]

    return prepare


def mask(data: Made, *more: str) -> Callable[[Path], list[str]]:
    def prepare(place: Path) -> list[str]:
        return edit(saved(), "--mask", str(made(data, place / "mask.img")), *more)(place)

    return prepare


def named(name: str) -> Callable[[Path], list[str]]:
    words = ["--instruction", "make it blue", "--steps", "2", "--out", "out.png"]
    return lambda place: ["edit", "--image", name, *words]


UNREADABLE = r"Cannot read \S+x\.img \([\d,]+ bytes\) as an image: "
NO_FORMAT = UNREADABLE + "it is in no format that can be read.*Give an undamaged PNG, JPEG or WebP file"
SIDES = r"x\.img is \d+x\d+\. A side may have 1 to 16384 pixels.*scale the image down"
TOO_LONG = r"x\.img: The image is \d+x\d+\. The longer side may be at most 8 times the shorter one"

REFUSED = {
    "nothing": (b"", r"x\.img is empty: it has 0 bytes"),
    "text": (b"an image", NO_FORMAT),
    "a folder": (Path.mkdir, r"x\.img is a folder, not a regular file"),
    "a pipe": (os.mkfifo, r"x\.img is a pipe, not a regular file"),
    "a device without end": (link("/dev/zero"), r"x\.img is a device, not a regular file"),
    "a link to nothing": (link("absent.png"), r"x\.img is a link to a file that does not exist"),
    "a link to itself": (link("x.img"), r"x\.img cannot be read: Too many levels"),
    "a file of the system": (link("/etc/passwd"), NO_FORMAT),
    "256 GB of nothing": (sparse(2**38), r"x\.img has 274,877,906,944 bytes; at most 1,073,741,824"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "zero pixels": (head(0, 0), UNREADABLE + "|A side may have 1"),
    "2^31 pixels a side": (head(2**31 - 1, 2**31 - 1), UNREADABLE + "it has more than 178 million pixels"),
    "16384x16384 in a kilobyte": (head(16384, 16384), UNREADABLE + "it has more than 178 million pixels"),
    "60000x1": (large(60000, 1), SIDES),
    "16384x1": (large(16384, 1), TOO_LONG),
    "1x16384": (large(1, 16384), TOO_LONG),
    "9:1": (saved(size=(90, 10)), TOO_LONG),
    "cut short": (saved(size=(200, 200), color=(9, 8, 7))[:-40], UNREADABLE),
    "a JPEG cut short": (saved(size=(200, 200), format="JPEG")[:600], UNREADABLE),
    "a GIF cut short": (saved("P", format="GIF")[:100], UNREADABLE),
    "a TIFF cut short": (saved(format="TIFF")[:200], "x.img"),
    "a WebP cut short": (saved(format="WEBP", lossless=True)[:30], "x.img"),
    "pixels that do not unpack": (damaged(saved(), 45, b"\xff\xff\xff"), UNREADABLE),
    "a head with another checksum": (damaged(saved(), 30, b"\xff"), "x.img"),
    "WebP in name only": (b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff", "x.img"),
    "a BMP of -64x-64": (
        b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, -64, -64, 1, 24, *[0] * 6),
        "x.img",
    ),
    "a TIFF of NaN": (
        lambda path: Image.fromarray(np.full((64, 64), np.nan, np.float32)).save(path, "TIFF"),
        UNREADABLE + "its values have 32 bits.*save it with 8 or 16 bits",
    ),
    "a TIFF of whole numbers of 32 bits": (tiff(2, b"\0" * 8, 32), UNREADABLE + "its values have 32 bits"),
    "a TIFF of signed numbers": (tiff(2, b"\0" * 4, 16, number=2), UNREADABLE + "its values have 32 bits"),
    "a program in PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(/tmp/x) (w) file closefile\nshowpage\n",
        NO_FORMAT,
    ),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', NO_FORMAT),
    "PDF": (b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n", NO_FORMAT),
    "PSD": (b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3) + b"\0" * 100, NO_FORMAT),
    "a text of a gigabyte": (
        png(64, 64, BLACK, 8, 2, chunk(b"iTXt", b"blip3o\0\1\0\0\0" + zeros(10**9))), UNREADABLE + "a text or a colour"
    ),
    "a profile of half a gigabyte": (
        png(64, 64, BLACK, 8, 2, chunk(b"iCCP", b"x\0\0" + zeros(5 * 10**8))), UNREADABLE + "a text or a colour"
    ),
    "an icon with 400 million pixels inside": (icon_with_a_large_image(), "x.img"),
}  # fmt: skip

ORIENTATION_99 = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"
TAKEN = {
    "1x1": saved(size=(1, 1)),
    "8:1": saved(size=(80, 10)),
    "a GIF of 500 frames": animation("GIF", 500),
    "a PNG of four frames": animation("PNG", 3),
    "a JPEG of ink": saved("CMYK", color=(0, 255, 255, 0), format="JPEG"),
    "a TIFF of ink": saved("CMYK", color=(0, 255, 255, 0), format="TIFF"),
    "LAB": saved("LAB", format="TIFF"),
    "a fax": saved("1", format="TIFF", compression="group4"),
    "grey of 16 bits": saved("I;16", color=40000),
    "an icon": saved("RGBA", (256, 256), format="ICO"),
    "AVIF": saved(format="AVIF"),
    "JPEG 2000": saved(format="JPEG2000"),
    "an orientation that is none": saved(format="JPEG", exif=ORIENTATION_99),
    "damaged EXIF": saved(format="JPEG", exif=b"Exif\0\0" + b"\xff" * 100),
    "an EXIF that points at itself": saved(format="JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 100),
    "a profile": saved(icc_profile=icc_profile(DISPLAY_P3)),
    "a damaged profile": saved(icc_profile=b"\0" * 200),
    "a profile of links": saved(icc_profile=icc_profile(DISPLAY_P3).replace(b"mntr", b"link")),
    "a size in other words": saved(format="TIFF").replace(
        struct.pack("<HHI", 256, 3, 1), struct.pack("<HHI", 256, 4, 1)
    ),
}
NAMES = {
    "a URL": ("http://127.0.0.1:9/a.png", "a.png does not exist"),
    "a URL of a file": ("file:///etc/passwd", "passwd does not exist"),
    "300 characters": ("x" * 300 + ".png", "cannot be read: File name too long"),
    "no name": ("", r"is a folder|does not exist"),
    "a name that moves the cursor": ("\x1b[31mx\n.png", r"'\\x1b\[31mx\\n\.png' does not exist"),
    "standard input": ("/dev/stdin", "not a regular file|cannot be read|does not exist|no format that can be read"),
}
WHITE, SAME_SIZE = saved("L", color=255), "The mask is 10x10 and the image is 64x64"
MASKS = {
    "another size": (saved("L", (10, 10), 255), SAME_SIZE),
    "turned on its side": (saved("L", (64, 32), 255), "The mask is 64x32 and the image is 64x64"),
    "black": (saved("L"), r"mask\.img: The mask is empty \(all 0\)"),
    "transparent": (saved("RGBA", color=(255, 255, 255, 10)), r"mask\.img is partly transparent"),
    "a clear colour": (saved("L", color=0, transparency=0), r"mask\.img is partly transparent"),
    "nothing": (b"", r"mask\.img is empty"),
    "a pipe": (os.mkfifo, r"mask\.img is a pipe"),
    "a folder": (Path.mkdir, r"mask\.img is a folder"),
    "absent": (link("absent.png"), r"mask\.img is a link to a file that does not"),
    "2^31 pixels a side": (head(2**31 - 1, 2**31 - 1), r"mask\.img .*178 million"),
    "a TIFF of floats": (saved("F", color=1.0, format="TIFF"), r"mask\.img .*32 bits"),
}
WORDS = {
    "feather 1025": (["--feather", "1025"], "from 0 to 1,024"),
    "feather -1": (["--feather", "-1"], "from 0 to 1,024"),
    "feather of text": (["--feather", "wide"], "--feather.*wide"),
    "fit crop": (["--fit", "crop"], "fit 'crop' cannot be combined with a mask"),
    "fit authors": (["--fit", "authors"], "fit 'authors' cannot be combined with a mask"),
    "a size": (["--size", "64x64"], "--size cannot be used with --mask"),
}


TAKEN_MASKS = {
    "of one bit": saved("1", color=1),
    "of 16 bits": saved("I;16", color=65535),
    "with an alpha that hides nothing": saved("RGBA", color=(255,) * 4),
}


def small_mask(place: Path) -> list[str]:
    image = Image.new("L", (64, 64))
    image.putpixel((3, 3), 255)
    image.save(place / "m.png")
    return mask((place / "m.png").read_bytes(), "--feather", "9")(place)


def all_that_is_taken(place: Path) -> list[str]:
    """A list, because each process takes seconds to load the model."""
    lines = []
    for k, (name, data) in enumerate((TAKEN | TAKEN_MASKS).items()):
        (place / f"{k}.img").write_bytes(data)
        entry = {"image": f"{k}.img", "instruction": name}
        lines.append({"image": "0.img", "instruction": name, "mask": f"{k}.img"} if name in TAKEN_MASKS else entry)
    (place / "0.img").write_bytes(saved())
    (place / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return ["edit", "--list", "list.jsonl", "--out", "out", "--steps", "1", "--seed", "1"]


SAMPLE = ["a pipe", "2^31 pixels a side", "cut short", "a program in PostScript", "a profile of half a gigabyte"]
refused = [Attack(name, edit(data), says) for name, (data, says) in REFUSED.items()]
masks = [Attack(f"mask: {name}", mask(data), says) for name, (data, says) in MASKS.items()]
masks += [Attack(f"mask: {name}", mask(WHITE, *words), says) for name, (words, says) in WORDS.items()]
masks += [
    Attack("mask: feather wider than the mask", small_mask, "feather is 9 pixels, which leaves nothing of the mask"),
]


@attacks(
    [attack for attack in refused if attack.name in SAMPLE] + [masks[0], masks[3]],
    slow=[
        *(attack for attack in refused if attack.name not in SAMPLE),
        *(Attack(f"named: {name}", named(word), says) for name, (word, says) in NAMES.items()),
        *masks[1:3],
        *masks[4:],
        Attack("reconstruct: nothing", reconstruct(b""), r"x\.img is empty"),
        Attack("reconstruct: a pipe", reconstruct(os.mkfifo), r"x\.img is a pipe"),
        Attack("reconstruct: 9:1", reconstruct(saved(size=(90, 10))), r"The image is 90x10"),
        Attack("reconstruct: over itself", reconstruct(saved(), "--out", "x.png", "--image", "x.png"), "overwritten"),
        Attack("edit: nine images", edit(saved(), *["--image", "x.img"] * 8), "There are 9 images"),
        Attack("edit: an image as the mask's name", edit(saved(), "--mask", "x.img"), "The mask is empty"),
    ],
    long=[
        Attack("odd images and masks", all_that_is_taken, None),
        Attack("169 million pixels", edit(lambda path: path.write_bytes(large(13000, 13000))), None),
        Attack("169 million pixels, again", reconstruct(lambda path: path.write_bytes(large(13000, 13000))), None),
        Attack(
            "169 million pixels, few of them there",
            edit(lambda path: path.write_bytes(large(13000, 13000, 2, 100))),
            UNREADABLE + "its pixels end before its last row",
        ),
    ],
)
def test_a_bad_image_is_refused_in_words_and_an_odd_one_is_taken(attack, tmp_path):
    """Catches tracebacks, hangs, full memories and half-made results for images from anywhere."""
    check(attack, tmp_path)
