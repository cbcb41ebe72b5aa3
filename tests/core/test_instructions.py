"""Pictures that an instruction names by number."""

import pytest

from blip3o_core.instructions import unknown_numbers

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    "instruction, count, unknown",
    [
        ("Put the star from image 3 into image 1", 2, [3]), ("the third picture's star", 2, [3]),
        ("images 1, 2 and 5", 2, [5]), ("PHOTOS 2-4.", 3, [4]), ("image #4 and image no. 7", 4, [7]),
        ("image3", 2, [3]), ("first and 3rd input images", 1, [3]), ("image two", 1, [2]), ("image 0", 1, [0]),
        ("the image 3 in blue", 2, [3]), ("image 2 and the second image", 2, []), ("a second picture", 1, []),
        ("add to the image 3 stars", 1, []), ("make image 3 times larger", 1, []), ("add 3 images", 1, []),
        ("make the image one shade darker", 1, []), ("Keep the image. 3 stars are enough", 1, []), ("", 1, []),
        ("put the second star into the image", 1, []), ("image 1.5", 1, []), ("image 512x512", 1, []),
    ],
)  # fmt: skip
def test_numbers_without_an_image(instruction, count, unknown):
    """Catches numbers of images that are missed, and amounts taken for them."""
    assert unknown_numbers(instruction, count) == unknown


def test_long_instructions_are_read_at_once():
    """Catches a search that takes minutes for a text of thousands of words."""
    assert unknown_numbers("images " + "1 and " * 50_000 + "the first , " * 50_000 + "9", 1) == []
