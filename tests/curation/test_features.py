"""Features of a sample against images and texts whose numbers are known."""

import math

import numpy as np
import pytest
from PIL import Image

from blip3o_core.curation.features import compare, look, measure_sample
from blip3o_core.curation.sample import Sample
from blip3o_core.curation.texts import measure_text, words_of
from blip3o_core.errors import Blip3oError
from tests.support.curation import encoded, texture


def numbers(image: Image.Image, kind: str = "PNG", **how) -> dict:
    return dict(look(encoded(image, kind, **how), "image").numbers)


def test_an_empty_image_has_nothing():
    """Catches a measure that finds edges, colours or contrast where there are none."""
    found = numbers(Image.new("RGB", (40, 20), (128, 128, 128)))
    assert (found["sharpness"], found["contrast"], found["colourfulness"]) == (0, 0, 0)
    assert (found["dark"], found["bright"]) == (0, 0)
    assert (found["width"], found["height"], found["side"], found["aspect"]) == (40, 20, 20, 2)


def test_a_chessboard_of_pixels_is_as_sharp_as_can_be():
    """Catches a Laplacian with other weights, and a variance about another mean."""
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    found = numbers(Image.fromarray(board))
    assert found["sharpness"] == (4 * 255) ** 2
    assert found["contrast"] == pytest.approx(127.5)
    assert (found["dark"], found["bright"]) == (0.5, 0.5)


def test_red_is_as_colourful_as_the_formula_says():
    """Catches red, green and blue in another order, and a factor that is missing."""
    assert numbers(Image.new("RGB", (16, 16), (255, 0, 0)))["colourfulness"] == pytest.approx(
        0.3 * math.hypot(255, 127.5)
    )


def test_blur_lowers_sharpness():
    """Catches a sharpness that does not tell a blurred image from a sharp one."""
    from PIL import ImageFilter

    sharp, blurred = texture(1, 128, 128), texture(1, 128, 128).filter(ImageFilter.GaussianBlur(3))
    assert numbers(sharp)["sharpness"] > 20 > numbers(blurred)["sharpness"]


def test_the_hash_is_that_of_imagehash():
    """Catches bits in another order: hashes of other programs, and of earlier runs, would not be near ours."""
    import imagehash

    image = texture(3, 128, 128)
    assert f"{numbers(image)['hash']:016x}" == str(imagehash.phash(image))


def test_a_large_jpeg_counts_with_its_whole_size():
    """Catches the size of the smaller image that was decoded, or features that depend on the scale."""
    large = texture(4, 256, 256).resize((2400, 1600), Image.Resampling.BICUBIC)
    found, small = numbers(large, "JPEG", quality=95), numbers(large.resize((768, 512)), "PNG")
    assert (found["width"], found["height"], found["format"]) == (2400, 1600, "JPEG")
    assert (found["hash"] ^ small["hash"]).bit_count() <= 2
    assert found["contrast"] == pytest.approx(small["contrast"], rel=0.02)


def test_odd_images_are_measured_upright():
    """Catches a CMYK, 16-bit or turned image that is dropped, or measured on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = numbers(texture(5, 80, 40), "JPEG", exif=exif)
    assert (turned["width"], turned["height"]) == (40, 80)
    cmyk = numbers(texture(5).convert("CMYK"), "JPEG")
    assert (cmyk["mode"], cmyk["format"]) == ("CMYK", "JPEG")
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    assert numbers(deep)["mode"] == "I;16" and numbers(deep)["contrast"] > 60


def test_a_damaged_image_is_refused():
    """Catches half an image that passes as a whole one."""
    data = encoded(texture(6), "JPEG")
    with pytest.raises(Blip3oError, match="the place"):
        look(data[: len(data) // 2], "the place")


def test_an_edit_is_compared_with_its_nearest_reference():
    """Catches a change measured against the wrong reference, or as another share of the image."""
    target = texture(7)
    changed = target.copy()
    changed.paste((0, 0, 0), (0, 0, 32, 32))
    looked = [look(encoded(one), "one") for one in (texture(8, 64, 32), changed)]
    found = compare(look(encoded(target), "target"), looked)
    assert found["changed"] == pytest.approx(0.25, abs=0.02)
    assert found["aspect_difference"] == 0 and found["reference_side"] == 32
    far = compare(look(encoded(target), "target"), looked[:1])
    assert far["aspect_difference"] == pytest.approx(1.0) and far["distance"] > found["distance"]


def test_a_row_has_a_number_for_each_text():
    """Catches numbers of one text that are taken for those of another."""
    row = measure_sample(Sample("a", "a", encoded(texture(9)), texts=("two words", "x" * 30)))
    assert row["words"] == [2, 1] and row["characters"] == [9, 30]


def test_texts_have_known_numbers():
    """Catches words counted by spaces alone, punctuation as words, and repetition that is not seen."""
    found = measure_text("Un cercle rouge à côté d'un carré bleu")
    assert found["words"] == 8 and found["language"] == "fr"
    assert found["ascii"] == pytest.approx(34 / 38)
    assert measure_text("红色的圆 here")["words"] == 5
    assert measure_text("red, red; red red!")["repetition"] == pytest.approx(2 / 3)
    assert measure_text("@@@@ 1234")["letters"] == 0
    assert measure_text("")["words"] == 0 and measure_text("ok")["language"] == "und"
    assert words_of("Ｄon't  RE-USE.") == ["don't", "re-use"]
