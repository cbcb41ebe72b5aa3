"""Images and masks from files: what every kind of file becomes."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from blip3o_core.errors import Blip3oError
from blip3o_core.images.limits import MAX_SIDE
from blip3o_core.images.reader import open_image, open_mask, read_image
from tests.support.image_files import ADOBE_RGB, DISPLAY_P3, SRGB, chunk, icc_profile, png, tiff
from tests.support.pictures import noise


def reds(image) -> list[int]:
    return [image.getpixel((x, 0))[0] for x in range(image.width)]


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    if transparent:
        image.info["transparency"] = 1
    return image


def grey(mode: str, *values: int) -> Image.Image:
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    return Image.frombytes(mode, (len(values), 1), np.array(values, dtype=kind).tobytes())


KINDS = {
    "rgba.png": (Image.new("RGBA", (1, 1), (200, 0, 0, 0)), [(255, 255, 255)]),
    "half.png": (Image.new("RGBA", (1, 1), (0, 0, 0, 51)), [(204, 204, 204)]),
    "la.png": (Image.new("LA", (1, 1), (9, 0)), [(255, 255, 255)]),
    "palette.png": (palette(False), [(255, 0, 0), (0, 255, 0), (0, 0, 255)]),
    "clear.png": (palette(True), [(255, 0, 0), (255, 255, 255), (0, 0, 255)]),
    "clear.gif": (palette(True), [(255, 0, 0), (255, 255, 255), (0, 0, 255)]),
    "bits.png": (Image.new("1", (1, 1), 1), [(255, 255, 255)]),
    "cmyk.tiff": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), [(255, 0, 0)]),
    "16.png": (grey("I;16", 0, 257, 385, 386, 25700, 65535), [(v, v, v) for v in (0, 1, 1, 2, 100, 255)]),
    "16.tiff": (grey("I;16B", 0, 25700, 65535), [(v, v, v) for v in (0, 100, 255)]),
    "16.pgm": (grey("I", 0, 25700, 65535), [(v, v, v) for v in (0, 100, 255)]),
    "a.ico": (Image.new("RGBA", (16, 1), (200, 0, 0, 0)), [(255, 255, 255)] * 16),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_rgb_on_white(tmp_path, name):
    """Catches transparency that turns black, palettes taken for greys, and 16 bits that are cut off at 255."""
    image, expected = KINDS[name]
    image.save(tmp_path / name)
    found = open_image(tmp_path / name)
    assert found.mode == "RGB" and [found.getpixel((x, 0)) for x in range(found.width)] == expected


def test_a_clear_grey_of_16_bits_is_white(tmp_path):
    """Catches transparency that is lost when greys are scaled."""
    grey("I;16", 0, 25700).save(tmp_path / "a.png", transparency=25700)
    found = open_image(tmp_path / "a.png")
    assert [found.getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]


@pytest.mark.parametrize("deep", [False, True])
def test_photographs_stand_upright(tmp_path, deep):
    """Catches photographs on their side, also those of 16 bits, and those turned twice."""
    values = np.array([[0, 100, 200]], dtype=np.uint16)
    image = Image.fromarray(values * 257) if deep else Image.fromarray(values.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    found = open_image(tmp_path / "a.png")
    assert found.size == (1, 3) and [found.getpixel((0, y))[0] for y in range(3)] == [0, 100, 200]


def test_an_animation_is_its_first_frame(tmp_path):
    """Catches the last frame, and all of them on top of each other."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "LA"])
def test_a_png_without_its_last_rows_is_refused(mode):
    """Catches rows that turn black without a word: Pillow takes pixels that end early for whole ones."""
    whole = Image.fromarray(np.full((9, 13), 500, np.uint16)) if mode == "I;16" else noise(13, 9).convert(mode)
    for image in (whole, Image.new(mode, (13, 9))):
        data = saved(image)
        place = data.index(b"IDAT") - 4
        length = int.from_bytes(data[place : place + 4], "big")
        rows = zlib.decompress(data[place + 8 : place + 8 + length])
        read_image(data, "a.png")
        for cut, reason in (
            (rows[: len(rows) // 9 * 8], "its pixels end before its last row"),
            (rows[:-1], "truncated"),
        ):
            with pytest.raises(Blip3oError, match=f"a.png .*{reason}"):
                read_image(data[:place] + chunk(b"IDAT", zlib.compress(cut)) + chunk(b"IEND", b""), "a.png")


def interlaced(width: int, height: int, rows: bytes) -> bytes:
    data = png(width, height, rows)
    return data[:8] + chunk(b"IHDR", data[16:28] + b"\1") + data[33:]


@pytest.mark.parametrize("size, length", [((2, 2), 7), ((5, 5), 36), ((8, 8), 79)])
def test_an_interlaced_png_is_whole_with_seven_passes(size, length):
    """Catches the rows of passes counted wrongly: whole images would be refused, or holes taken."""
    read_image(interlaced(*size, b"\0" * length), "a.png")
    with pytest.raises(Blip3oError, match="its pixels end"):
        read_image(interlaced(*size, b"\0" * (length - 1 - size[0])), "a.png")


def test_a_mask_is_white_where_to_change(tmp_path):
    """Catches a mask upside down, one of bytes, and colours weighed alike."""
    image = Image.new("RGB", (4, 2), "black")
    for x, colour in enumerate(("white", (128, 128, 128), (0, 255, 0))):
        image.putpixel((x, 1), colour if isinstance(colour, tuple) else (255, 255, 255))
    image.save(tmp_path / "a.png")
    image.convert("RGBA").save(tmp_path / "opaque.png")
    mask = open_mask(tmp_path / "a.png")
    assert mask.shape == (2, 4) and mask.dtype == torch.float32 and not mask[0].any()
    torch.testing.assert_close(mask[1], torch.tensor([1.0, 128 / 255, 0.587, 0.0]), rtol=0, atol=1 / 255)
    assert torch.equal(open_mask(tmp_path / "opaque.png"), mask)


def test_a_mask_with_transparency_is_refused(tmp_path):
    """Catches the guess what transparency means: strokes on nothing would have changed all of the picture."""
    Image.new("LA", (2, 2), (255, 0)).save(tmp_path / "a.png")
    with pytest.raises(Blip3oError, match="a.png is partly transparent"):
        open_mask(tmp_path / "a.png")


def test_files_that_are_no_pictures_are_errors_with_their_name(tmp_path, monkeypatch):
    """Catches a traceback of a decoder, half a picture that is taken for a whole one, and a file that fills memory."""
    noise(64, 64).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    made = {"empty.png": b"", "cut.png": data[: len(data) // 2], "text.png": b"a red square", "head.png": data[:20]}
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tiff")
    (tmp_path / "whole.tiff").write_bytes(tiff(2, struct.pack("<II", 0, 65535), 32))
    (tmp_path / "signed.tiff").write_bytes(tiff(2, struct.pack("<hh", 0, 255), 16, number=2))
    Image.new("1", (MAX_SIDE + 1, 1)).save(tmp_path / "long.png")
    reasons = {
        "empty.png": "0 bytes",
        "float.tiff": "32 bits",
        "whole.tiff": "32 bits",
        "signed.tiff": "32 bits",
        "long.png": f"{MAX_SIDE + 1}x1",
        "none.png": "does not exist",
    }
    for name in (*made, "folder.png", "float.tiff", "whole.tiff", "signed.tiff", "long.png", "none.png"):
        with pytest.raises(Blip3oError, match=f"{name}.*{reasons.get(name, '')}"):
            open_image(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    with pytest.raises(Blip3oError, match="whole.png.*million pixels"):
        open_image(tmp_path / "whole.png")


DEEP = b"\0" + struct.pack(">6H", 0, 9, 9, 100 * 257, 9, 9)
RAW = {
    # Pillow compares the transparent colour, as it stands in the file, with the pixels it has scaled to 8 bits.
    "clear grey of 4 bits": (png(2, 1, b"\0\x0f", 4, before=chunk(b"tRNS", b"\0\x0f")), [0, 255]),
    "clear grey of 4 bits, not white": (png(2, 1, b"\0\x30", 4, before=chunk(b"tRNS", b"\0\x03")), [255, 0]),
    "clear grey of 2 bits": (png(2, 1, b"\0\x10", 2, before=chunk(b"tRNS", b"\0\x01")), [0, 255]),
    "clear grey of 1 bit": (png(2, 1, b"\0\x40", 1, before=chunk(b"tRNS", b"\0\x00")), [255, 255]),
    "clear colour of 16 bits": (
        png(
            2,
            1,
            b"\0" + struct.pack(">6H", 0, 9, 9, 100 * 257, 9, 9),
            16,
            2,
            chunk(b"tRNS", struct.pack(">3H", 0, 9, 9)),
        ),
        [255, 100],
    ),
    "colours of 16 bits": (png(2, 1, b"\0" + struct.pack(">6H", 0, 9, 9, 65535, 9, 9), 16, 2), [0, 255]),
    "grey and alpha of 16 bits": (png(2, 1, b"\0" + struct.pack(">4H", 0, 65535, 0, 0), 16, 4), [0, 255]),
    # Pillow gives these as they stand in the file: nearly black, and upside down.
    "TIFF of 12 bits": (tiff(2, b"\x00\x0f\xff", 12), [0, 255]),
    "TIFF of 16 bits, white is 0": (tiff(2, struct.pack("<HH", 0, 25700), 16, True), [255, 155]),
    "TIFF of 8 bits, white is 0": (tiff(2, b"\x00\x64", 8, True), [255, 155]),
}


@pytest.mark.parametrize("name", RAW)
def test_what_pillow_leaves_to_its_callers_is_done(name):
    """Catches pixels that are wrong without a word, because a decoder gives them in the file's own scale."""
    data, expected = RAW[name]
    assert reds(read_image(data, name).on_white()) == expected


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_each_of_the_eight_orientations_is_turned_once(format):
    """Catches a format whose decoder turns by itself and is turned again, and a mirror taken for a turn."""
    upright = np.zeros((32, 64), np.uint8)
    upright[:16, :32] = 250  # bright in the upper left corner
    turned = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T}
    turned |= {6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)}
    for orientation, stored in turned.items():
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(file, format, exif=exif)
        found = np.asarray(read_image(file.getvalue(), format).on_white())[..., 0] > 125
        assert found.shape == (32, 64) and (found == (upright > 125)).mean() > 0.98, (format, orientation)


def damaged_exif(format: str, block: bytes) -> bytes:
    file = io.BytesIO()
    noise(24, 16).save(file, format, **({} if format == "PNG" else {"exif": block}))
    data = file.getvalue()
    return data[:33] + chunk(b"eXIf", block[6:]) + data[33:] if format == "PNG" else data


BLOCKS = {
    "all ones": b"\xff" * 40,
    "empty": b"",
    "cut short": b"MM\0*\0\0\0\x08\0\x09\x01\x12",
    "no header": b"\0\x08\0\x02\x01\x12\0\x03" + b"\0" * 20,
    "orientation 99": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",
    "orientation is text": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",
    "points at itself": b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08",
}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("block", BLOCKS)
def test_damaged_exif_is_no_exif(block, format):
    """Catches a traceback, or a whole image that is refused, for a block that only says how to turn it."""
    data = damaged_exif(format, b"Exif\0\0" + BLOCKS[block])
    found, plain = read_image(data, block).on_white(), damaged_exif(format, b"Exif\0\0")
    assert found.tobytes() == read_image(plain, block).on_white().tobytes() and found.size == (24, 16)


def test_a_remark_says_that_the_image_was_not_turned():
    """Catches an image on its side whose user is not told why."""
    assert read_image(damaged_exif("JPEG", b"Exif\0\0" + b"\xff" * 40), "a").remarks == (
        "not turned: its EXIF block is damaged",
    )


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("primaries, gamma", [(DISPLAY_P3, 2.2), (ADOBE_RGB, 2.2), (SRGB, 1.0)])
def test_colours_look_as_their_profile_says(primaries, gamma, format):
    """Catches numbers of another colour space taken for sRGB, which changes how every untouched pixel looks."""
    image, profile = noise(24, 16), icc_profile(primaries, gamma)
    data = saved(image, format, icc_profile=profile)
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    expected = ImageCms.profileToProfile(
        stored, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    read = read_image(data, "a")
    difference = np.abs(np.asarray(read.on_white()).astype(int) - np.asarray(expected))
    assert difference.max() <= 1 and read.remarks == ("converted from Some Colours to sRGB",)
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(stored)).max() > 15


def test_numbers_of_srgb_stay_bit_for_bit():
    """Catches an image that is rounded once more because its profile says what everybody assumes."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for image in (noise(24, 16), noise(24, 16, "RGBA"), noise(24, 16).convert("P")):
        read = read_image(saved(image, icc_profile=profile), "a")
        assert read.pixels.tobytes() == read_image(saved(image), "a").pixels.tobytes() and not read.remarks


def test_greys_transparency_and_palettes_are_converted_too():
    """Catches a profile used for one mode only, transparency lost on the way, and grey taken for colour."""
    p3, linear = icc_profile(DISPLAY_P3), icc_profile(None, 1.0, space=b"GRAY")
    both = noise(24, 16, "RGBA")
    found = read_image(saved(both, icc_profile=p3), "a").pixels
    colours = read_image(saved(both.convert("RGB"), icc_profile=p3), "a").pixels
    assert found.getchannel("A").tobytes() == both.getchannel("A").tobytes()
    assert found.convert("RGB").tobytes() == colours.tobytes() != both.convert("RGB").tobytes()
    palette = noise(24, 16).quantize(9)
    palette_colours = palette.convert("RGB")
    assert (
        read_image(saved(palette, icc_profile=p3), "a").pixels.tobytes()
        == read_image(saved(palette_colours, icc_profile=p3), "a").pixels.tobytes()
    )
    # The light of half of white is 188 of 255 in sRGB.
    for image in (Image.new("L", (2, 2), 128), Image.fromarray(np.full((2, 2), 128 * 257, np.uint16))):
        assert read_image(saved(image, icc_profile=linear), "a").pixels.getpixel((0, 0)) == (188, 188, 188)
    clear = Image.new("LA", (2, 2), (128, 7))
    assert read_image(saved(clear, icc_profile=linear), "a").pixels.getpixel((0, 0)) == (188, 188, 188, 7)
    assert read_image(saved(Image.new("1", (2, 2), 1), icc_profile=linear), "a").pixels.getpixel((0, 0)) == (255,) * 3


PROFILES = {
    "rubbish": (b"rubbish", "damaged"),
    "cut short": (icc_profile(DISPLAY_P3)[:200], "damaged"),
    "no colours": (icc_profile(DISPLAY_P3).replace(b"rXYZ", b"xxxx"), "damaged"),
    "of greys": (icc_profile(None, space=b"GRAY"), "for GRAY"),
    "of ink": (icc_profile(DISPLAY_P3, space=b"CMYK"), "for CMYK"),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_that_cannot_be_used_is_ignored_and_named(name):
    """Catches a whole image refused, or a traceback, because of a block beside its pixels."""
    profile, reason = PROFILES[name]
    read = read_image(saved(noise(24, 16), icc_profile=profile), "a")
    assert read.pixels.tobytes() == noise(24, 16).tobytes()
    [remark] = read.remarks
    assert "profile is " + reason in remark and "ignored" in remark


def test_lab_is_colours():
    """Catches a lightness and two opposites taken for red, green and blue."""
    read = read_image(saved(Image.new("LAB", (1, 1), (255, 128, 128)), "TIFF"), "a")
    assert min(read.pixels.getpixel((0, 0))) >= 254 and not read.remarks


def test_a_mask_is_numbers_and_not_colours(tmp_path):
    """Catches a mask whose half becomes three quarters because its file has a profile."""
    greys = Image.new("L", (4, 4), 128)
    greys.save(tmp_path / "a.png", icc_profile=icc_profile(None, 1.0, space=b"GRAY"))
    assert open_mask(tmp_path / "a.png").unique().tolist() == pytest.approx([128 / 255])
