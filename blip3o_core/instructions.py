"""Which pictures an instruction names by number, so that a number without a picture is noticed."""

import re

_CARDINALS = {word: n for n, word in enumerate("one two three four five six seven eight nine ten".split(), 1)}
_ORDINALS = {
    word: n for n, word in enumerate("first second third fourth fifth sixth seventh eighth ninth tenth".split(), 1)
}
_ENDINGS = ("st", "nd", "rd", "th")
_ONE = ("image", "img", "picture", "pic", "photo", "photograph")
_MANY = tuple(word + "s" for word in _ONE)
_KINDS = ("input", "reference", "source", "given", "original")
_SIGNS = ("#", "no", "nr", "number", ".", "-", ":")
_JOINED = (",", "&", "/", "-", "–", "and", "or", "to", "the")
_THE = ("the", "this", "that", "a", "an", "each", "every", "my", "your", "its")
# A number before these is an amount: "make image 3 times as large".
_UNITS = ("%", "px", "x", "pixel", "pixels", "percent", "times", "degrees", "shade", "shades", "more", *_ENDINGS)
# "the image 3 stars" asks for stars, "the image 3 in blue" names a picture.
_FOLLOWING = (
    "is as at by of on in to and or into onto from with for but so has above below left right".split()
)  # fmt: skip


def unknown_numbers(instruction: str, count: int) -> list[int]:
    """The numbers that an English instruction gives to pictures although there are only `count`, in order, once each.

    "image 3", "photos 1 and 4", "the second picture" name pictures, counted from 1; "a second picture" and "make the
    image 3 shades darker" do not.
    """
    words = re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]", instruction.lower())
    named: set[int] = set()
    at = 0
    while at < len(words):
        found, end = _behind(words, at) if words[at] in (*_ONE, *_MANY) else _before(words, at)
        named.update(found)
        at = max(end, at + 1)
    return sorted(number for number in named if not 1 <= number <= count)


def _behind(words: list[str], at: int) -> tuple[list[int], int]:
    """The numbers behind the noun at `at`, and where they end: "image 3", "images 1, 2 and 4"."""
    start = at + 1
    while _word(words, start) in _SIGNS and start < at + 3:
        start += 1
    found, end = _run(words, start, _cardinal, words[at] in _MANY)
    # A sentence ends: "Keep the image. 3 stars are enough."
    if start > at + 1 and words[at + 1] in (".", ":"):
        return [], at + 1
    following = _word(words, end)
    loose = at > 0 and words[at - 1] in _THE and start == at + 1
    if loose and following[:1].isalnum() and following not in _FOLLOWING:
        return [], end
    return found, end


def _before(words: list[str], at: int) -> tuple[list[int], int]:
    """The ordinals from `at` on, and where they end, before a noun: "second image", "1st and 3rd input pictures"."""
    found, end = _run(words, at, _ordinal, True)
    noun = end + 1 if _word(words, end) in _KINDS else end
    another = at > 0 and words[at - 1] in ("a", "an")
    return ([], end) if another or _word(words, noun) not in (*_ONE, *_MANY) else (found, end)


def _run(words: list[str], at: int, read, many: bool) -> tuple[list[int], int]:
    """Numbers from `at` on, one or `many` joined by "and" and the like, and the place behind the last."""
    found, end = [], at
    while (number := read(words, at)) is not None:
        value, end = number
        found.append(value)
        at = end
        while many and _word(words, at) in _JOINED:
            at += 1
        if at == end:
            break
    return found, end


def _cardinal(words: list[str], at: int) -> tuple[int, int] | None:
    word = _word(words, at)
    value = _CARDINALS.get(word, int(word) if word.isascii() and word.isdigit() and len(word) < 7 else None)
    return None if value is None or _word(words, at + 1) in _UNITS else (value, at + 1)


def _ordinal(words: list[str], at: int) -> tuple[int, int] | None:
    word = _word(words, at)
    if word in _ORDINALS:
        return _ORDINALS[word], at + 1
    digits = word.isascii() and word.isdigit() and len(word) < 7
    return (int(word), at + 2) if digits and _word(words, at + 1) in _ENDINGS else None


def _word(words: list[str], at: int) -> str:
    return words[at] if at < len(words) else ""
