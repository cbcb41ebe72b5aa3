"""Which pictures an instruction names by number, so that a number without a picture is noticed."""

import re

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PICTURE = r"(?:image|picture|photo)"
_BEHIND = re.compile(rf"\b{_PICTURE}s?\s*#?\s*(\d{{1,4}}(?:\s*(?:,|and|&|to)\s*\d{{1,4}})*)\b", re.IGNORECASE)
_BEFORE = re.compile(rf"\bthe ({'|'.join(_ORDINALS)}|\d{{1,4}}(?:st|nd|rd|th)) {_PICTURE}\b", re.IGNORECASE)


def missing_image_numbers(instruction: str, count: int) -> list[int]:
    """Numbers that an English instruction gives to pictures although there are only `count`, in order, once each.

    "image 3", "photos 1 and 4", "the second picture" name pictures, counted from 1. It is for a hint, not for an error:
    "make the image 3 shades darker" is taken for a name as well.
    """
    named = {int(number) for found in _BEHIND.finditer(instruction) for number in re.findall(r"\d+", found[1])}
    for found in _BEFORE.finditer(instruction):
        word = found[1].lower()
        named.add(_ORDINALS.index(word) + 1 if word in _ORDINALS else int(word[:-2]))
    return sorted(number for number in named if not 1 <= number <= count)
