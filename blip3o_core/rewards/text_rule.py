"""Which text a prompt asks for, and how much of it was read: functions of strings alone."""

import re
import unicodedata
from collections.abc import Collection, Sequence

from ..errors import Blip3oError, shown

ASKED_LIMIT, READ_LIMIT = 1_000, 4_000  # characters that are compared: the effort grows with both
RULES = ("spans", "authors")

_LATIN = "0-9A-Za-z\u00c0-\u024f"  # not "\w": Chinese writes no space before a quotation mark
# Straight double marks after a digit are inches. Single marks are also apostrophes, so they quote only around whole
# words; inside they may stand between letters. "'90s" and "'n'" quote nothing.
_DOUBLE = re.compile(r'(?<!\d)"([^"]*)"|“([^“”]+)”|„([^„“”]+)[“”]|«([^«»]+)»|「([^「」]+)」|『([^『』]+)』')
_SINGLE = re.compile(
    rf"(?<![{_LATIN}'])'(?!\d0s\b|[nN]')(?=\S)((?:[^']|(?<=[{_LATIN}])'(?=[{_LATIN}]))+)(?<=\S)'(?![{_LATIN}'])"
    rf"|‘(?=\S)((?:[^‘’]|(?<=[{_LATIN}])’(?=[{_LATIN}]))+)(?<=\S)’(?![{_LATIN}])"
)
_ALIKE = str.maketrans("‘’‚`´“”„«»–—−‐‑", "'''''\"\"\"\"\"-----")  # which readers of text mistake for each other


def quoted_spans(prompt: str) -> list[str]:
    """The texts in quotation marks, in order. Single marks count only in a prompt without others."""
    for marks in (_DOUBLE, _SINGLE):
        found = [next(filter(None, match.groups()), "").strip() for match in marks.finditer(prompt)]
        if spans := [one for one in found if one]:
            return spans
    return []


def score_text(spans: Sequence[str], read: Sequence[str], case: bool = False) -> float:
    """How much of the spans was read, in order, and nothing else: 0 to 1, and 1 only for exactly that.

    One half is how much of the spans is there: the best match of each, in order, whatever stands between them. The
    other half is 1 less the character error rate of all that was read, which surplus text raises. Spaces do not count.
    """
    asked = [plain(span, case) for span in spans]
    target = _within("".join(asked))
    text = plain("".join(read), case)[:READ_LIMIT]
    if not target:  # spans of spaces
        return float(not text)
    ends = {sum(map(len, asked[:count])) for count in range(len(asked) + 1)}
    found = 1 - edit_distance(target, text, ends) / len(target)
    exact = max(0.0, 1 - edit_distance(target, text) / len(target))
    return (found + exact) / 2


def score_as_authors(prompt: str, read: Sequence[str]) -> float | None:
    """The rule of the authors' training: the text between the first two straight marks must occur in what was read.

    1 where it does, whatever else was read; otherwise 1 less its error rate, and 0 at least. Small and large letters
    are the same. None for a prompt without such marks, which the authors give 0.
    """
    target = _within("".join(prompt.split('"')[1:2]).replace(" ", "").lower())
    text = "".join(read).replace(" ", "").lower()
    if not target:
        return None
    if target in text:
        return 1.0
    return 1 - min(edit_distance(target, text[:READ_LIMIT]), len(target)) / len(target)


def plain(text: str, case: bool = False) -> str:
    """Text without spaces and without differences that nobody sees."""
    text = "".join(unicodedata.normalize("NFKC", text).translate(_ALIKE).split())
    return text if case else text.casefold()


def edit_distance(target: str, text: str, free: Collection[int] = ()) -> int:
    """Least number of characters to remove, to add or to change. Added ones cost nothing at the places `free`."""
    row = list(range(len(target) + 1))  # from nothing read so far to each beginning of target
    for one in text:
        before, row = row, [row[0] + (0 not in free)]
        for place, wanted in enumerate(target, 1):
            more = before[place] + (place not in free)
            row.append(min(before[place - 1] + (one != wanted), row[place - 1] + 1, more))
    return row[-1]


def _within(asked: str) -> str:
    if len(asked) > ASKED_LIMIT:
        raise Blip3oError(
            f"A prompt asks for {len(asked):,} characters of text, '{shown(asked, 40)}'. At most {ASKED_LIMIT:,} can "
            "be judged. Shorten what stands in quotation marks."
        )
    return asked
