"""Image numbers in an instruction ("image 2", "the second photo"), to warn about numbers without an image."""

import re

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_IMAGE = r"(?:image|picture|photo)"
_NUMBER_AFTER = re.compile(rf"\b{_IMAGE}s?\s*#?\s*(\d{{1,4}}(?:\s*(?:,|and|&|to)\s*\d{{1,4}})*)\b", re.IGNORECASE)
_NUMBER_BEFORE = re.compile(rf"\bthe ({'|'.join(_ORDINALS)}|\d{{1,4}}(?:st|nd|rd|th)) {_IMAGE}\b", re.IGNORECASE)


def missing_image_numbers(instruction: str, count: int) -> list[int]:
    """Image numbers in an English instruction that are not among the `count` images, in order, once each.

    Numbers count from 1. Meant for a hint, not for an error: "make the image 3 shades darker" is taken for a number.
    """
    named = {int(number) for found in _NUMBER_AFTER.finditer(instruction) for number in re.findall(r"\d+", found[1])}
    for found in _NUMBER_BEFORE.finditer(instruction):
        word = found[1].lower()
        named.add(_ORDINALS.index(word) + 1 if word in _ORDINALS else int(word[:-2]))
    return sorted(number for number in named if not 1 <= number <= count)
