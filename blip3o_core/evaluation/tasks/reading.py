"""Text in images, read by rapidocr and compared with the text that was asked for. Needs the extra `ocr`.

One reading gives all measures of a task. They are numbers of this reader: those of benchmarks that read images with
another program cannot be compared with them.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import Blip3oError
from ...rewards.interface import Candidates
from ...rewards.text import TextReward
from ...rewards.text_rule import plain, quoted_spans, score_as_authors, score_text
from ..interface import Item

TEXTS = "text"  # in an item's facts: the texts that were asked for; without it, those in quotation marks
VERSION = "1"
_CHINESE = "\u4e00-\u9fa5"
_KEPT = re.compile(rf"[^{_CHINESE}a-zA-Z0-9\sàâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ]")

Rule = Callable[[Item, Sequence[str]], float | None]


def asked(item: Item) -> list[str]:
    return list(item.facts[TEXTS]) if TEXTS in item.facts else quoted_spans(item.prompt)


def spans(item: Item, read: Sequence[str]) -> float:
    """How much of the texts was read, in order, and nothing else: the rule of the reward `text`."""
    return score_text(asked(item), read)


def right(item: Item, read: Sequence[str]) -> float:
    """1 where every text was read without an error, whatever else was. Spaces and capital letters do not count."""
    found = plain("".join(read))
    return float(all(plain(text) in found for text in asked(item)))


def flow_grpo(item: Item, read: Sequence[str]) -> float | None:
    """The rule of flow_grpo/ocr.py, of the text in the first quotation marks."""
    return score_as_authors(item.prompt, read)


def words(item: Item, read: Sequence[str]) -> float | None:
    """The share of the words asked for that were read, wherever they are; of the characters where they are Chinese.

    The rule of LongText-Bench's summary_scores.py for one image. Its own score counts the words of all images together.
    """
    return share_of_words(asked(item), read)


def share_of_words(asked: Sequence[str], read: Sequence[str]) -> float | None:
    wanted, found = (_KEPT.sub("", " ".join(texts)) for texts in (asked, read))
    split: Callable[[str], list[str]]
    if is_chinese(asked):
        split = lambda text: list("".join(text.split()))  # noqa: E731
    else:
        split = lambda text: text.lower().split()  # noqa: E731
    counts = Counter(split(wanted))
    return (counts & Counter(split(found))).total() / counts.total() if counts else None


def is_chinese(texts: Sequence[str]) -> bool:
    return bool(re.search(f"[{_CHINESE}]", "".join(texts)))


@dataclass(frozen=True)
class ReadingScorer:
    """`rules`: a measure each, by name, the one that counts most first."""

    rules: Mapping[str, Rule]
    reader: TextReward
    name: str = "ocr"
    notes: Sequence[str] = ()  # what keeps its numbers from being the benchmark's

    @property
    def version(self) -> str:
        return f"{VERSION}, read by text {self.reader.version}"

    @property
    def measures(self) -> Mapping[str, tuple[float, float]]:
        return dict.fromkeys(self.rules, (0.0, 1.0))

    @property
    def decisive(self) -> Mapping[str, Any]:
        reader = f"rapidocr at {self.reader.side} px"
        return {"reader": reader, "rules": list(self.rules), "notes": list(self.notes)}

    def __call__(self, items: Sequence[Item], candidates: Candidates) -> list[Mapping[str, float | None] | Exception]:
        return [self._judge(item, image) for item, image in zip(items, candidates.images, strict=True)]

    def _judge(self, item: Item, image: Any) -> Mapping[str, float | None] | Exception:
        read = self.reader.read(image)
        try:
            return {name: rule(item, read) for name, rule in self.rules.items()}
        except Blip3oError as error:  # such as a text that is too long to compare: of this item alone
            return error
