"""What a model is evaluated with must not be trained on: prompts that texts repeat, and images that are too near."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Blip3oError, shown
from ..files import parse_json, read_lines
from ..images.reader import image_bytes
from .decisions import EVALUATION, Drop
from .features import look
from .near import nearest
from .settings import DecontaminateSettings
from .texts import words_of

if TYPE_CHECKING:
    from pyarrow import Table

_KEYS = ("prompt", "instruction", "caption", "text")  # of a line of JSON, the first that it has
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


class Evaluation:
    """The prompts and images that the settings name. Raises Blip3oError for a file of them that cannot be read."""

    def __init__(self, settings: DecontaminateSettings):
        import numpy as np

        self._settings = settings
        self._prompts = Prompts(read_prompts(Path(settings.prompts)), settings.similarity) if settings.prompts else None
        files = _images(Path(settings.images)) if settings.images else []
        self._names = [str(file) for file in files]
        self._hashes = np.array([_hash(file) for file in files], np.uint64)

    def __bool__(self) -> bool:
        return self._prompts is not None or bool(self._names)

    def drops(self, table: "Table", rows: Sequence[int]) -> dict[int, Drop]:
        """Those of the rows of a piece's features that are evaluated with."""
        return self._near_images(table, rows) | self._near_prompts(table, rows)

    def _near_prompts(self, table: "Table", rows: Sequence[int]) -> dict[int, Drop]:
        found: dict[int, Drop] = {}
        if self._prompts is None:
            return found
        texts = table["texts"]
        for row in rows:
            near = next(filter(None, map(self._prompts.near, texts[row].as_py() or ())), None)
            if near is not None:
                found[row] = Drop(EVALUATION, shown(near), self._settings.similarity)
        return found

    def _near_images(self, table: "Table", rows: Sequence[int]) -> dict[int, Drop]:
        import numpy as np

        if not self._names or not len(rows):
            return {}
        targets = table["hash"].to_numpy()[list(rows)].astype(np.uint64)
        references = [table["reference_hashes"][row].as_py() for row in rows]
        owners = np.repeat(np.arange(len(rows)), [1 + len(some) for some in references])
        hashes = np.array(
            [one for first, some in zip(targets, references, strict=True) for one in (first, *some)], np.uint64
        )
        distance, which = nearest(hashes, self._hashes)
        return {
            rows[owners[k]]: Drop(EVALUATION, self._names[which[k]], self._settings.distance)
            for k in np.flatnonzero(distance <= self._settings.distance)
        }


class Prompts:
    """Prompts, found again in texts with the same words, or nearly the same.

    The measure is the share of words that two texts have in common, of all words of both. Prompts are looked up by
    their rarest words only: a text that shares none of these cannot be near enough.
    """

    def __init__(self, prompts: Sequence[str], similarity: float):
        self._similarity, self._prompts = similarity, list(prompts)
        self._words = [frozenset(words_of(prompt)) for prompt in self._prompts]
        often = Counter(word for words in self._words for word in words)
        self._by_word: dict[str, list[int]] = {}
        for number, words in enumerate(self._words):
            # At least so many of its words must be in the text, so one of those that are left over and one more is.
            must = math.ceil(similarity * len(words) - 1e-9)
            for word in sorted(words, key=lambda word: (often[word], word))[: len(words) - must + 1]:
                self._by_word.setdefault(word, []).append(number)

    def near(self, text: str) -> str | None:
        """The first prompt that a text repeats."""
        words = frozenset(words_of(text))
        for number in sorted({number for word in words for number in self._by_word.get(word, ())}):
            common = len(words & self._words[number])
            if common >= self._similarity * (len(words) + len(self._words[number]) - common) - 1e-9:
                return self._prompts[number]
        return None


def read_prompts(path: Path) -> list[str]:
    """A line of text each, or JSON objects with a `prompt`. Empty lines are left out."""
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        prompts = [line for _, line in lines]
    else:
        prompts = [_prompt(line, f"{shown(path)}, line {number}") for number, line in lines]
    if not prompts:
        raise Blip3oError(f"{shown(path)} has no prompts. Write one on each line, or leave decontaminate.prompts out.")
    return prompts


def _prompt(line: str, where: str) -> str:
    entry: Any = parse_json(line, f"{where},", "Write one JSON object on each line.")
    text = next((entry[key] for key in _KEYS if key in entry), None) if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise Blip3oError(f'{where} has no prompt. Write {{"prompt": "..."}} on each line.')
    return text


def _images(folder: Path) -> list[Path]:
    files = sorted(_walk(folder))
    if not files:
        raise Blip3oError(
            f"{shown(folder)} has no images. Choose the folder with the images of the evaluation, or leave "
            "decontaminate.images out."
        )
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith("."):
            yield file


def _hash(file: Path) -> int:
    return look(image_bytes(file), str(file)).numbers["hash"]
