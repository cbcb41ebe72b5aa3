"""What is measured of a text, and the form in which two texts are compared."""

import hashlib
import re
import unicodedata
from functools import cache
from typing import Any

# Chinese, Japanese and Korean put no spaces between words: there each character counts as one.
_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_WIDE}]|(?:(?![{_WIDE}])\w)+(?:['\u2019-](?:(?![{_WIDE}])\w)+)*")
_MEASURED = 20_000  # characters: more of them say nothing new of a text's words
_SURE = 0.5  # probability
UNKNOWN = "und"  # the code of a language that is not known, as ISO 639 has it


def words_of(text: str) -> list[str]:
    """Its words without case, punctuation and accents' different spellings: texts with equal words say the same."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def digest(text: str) -> int:
    """64 bits that two texts share when their words do."""
    return int.from_bytes(hashlib.blake2b(" ".join(words_of(text)).encode("utf-8", "replace"), digest_size=8).digest())


def measure_text(text: str) -> dict[str, Any]:
    """Words, characters, shares of ASCII and of letters, repetition and language."""
    part = text[:_MEASURED]
    words, solid = words_of(part), [one for one in part if not one.isspace()]
    pairs = list(zip(words, words[1:], strict=False))
    return {
        "words": len(words) if len(part) == len(text) else len(words_of(text)),
        "characters": len(text),
        "ascii": len(part.encode("ascii", "ignore")) / max(1, len(part)),
        "letters": sum(map(str.isalpha, solid)) / max(1, len(solid)),
        "repetition": 1 - len(set(pairs)) / len(pairs) if pairs else 0.0,
        "language": _language(part),
    }


def _language(text: str) -> str:
    return _identifier().classify(text[:2000].replace("\0", " "))[0]


@cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=_SURE)
