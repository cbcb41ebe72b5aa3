"""Image numbers in an instruction."""

import pytest

from blip3o_core.editing.image_mentions import missing_image_numbers


@pytest.mark.parametrize(
    "instruction, unknown",
    [
        ("put the fox of image 3 on the table", [3]),
        ("combine photos 1, 2 and 4 with Image #5", [4, 5]),
        ("take the THIRD picture and the 2nd image", [3]),
        ("image 0 is no picture", [0]),
        ("image 1 and image 2", []),
        ("add 3 stars and a second picture on the wall", []),
        ("make it look like 1970s photography", []),
        ("", []),
    ],
)
def test_numbers_without_an_image_are_found(instruction, unknown):
    """Catches a number that is missed, and numbers that count other things than images."""
    assert missing_image_numbers(instruction, 2) == unknown
