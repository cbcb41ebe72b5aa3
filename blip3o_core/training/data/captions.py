"""The texts of training items: what an entry of a list, shard or packed file may say, and texts in little memory."""

import hashlib
from array import array
from collections.abc import Iterator, Sequence

from ...errors import Blip3oError, shown
from ...shards.texts import read_texts

Captions = tuple[str, ...]


def read_captions(entry, where: str) -> Captions:
    """A caption, a list of captions or None, as read from a file. Empty captions are left out."""
    try:
        return read_texts(entry)
    except Blip3oError as error:
        raise Blip3oError(f"{where}: {error}") from None


def texts_of(entry: dict, references: int, where: str) -> Captions:
    """The captions of an image, or the instructions of an edit, which is an item with references."""
    instructions, captions = (read_captions(entry.get(name), where) for name in ("instruction", "caption"))
    if bool(instructions) != bool(references) or (references and captions):
        keys = ", ".join(map(shown, entry)) or "no text"
        raise Blip3oError(
            f"{where} has {references} references and {keys}. An edit needs references and 'instruction' and no "
            "'caption'. A plain image must not have 'instruction' or references."
        )
    return instructions or captions


class Texts(Sequence[str]):
    """Strings in one buffer: each costs its UTF-8 bytes and eight more, where a string of Python's costs sixty."""

    def __init__(self, texts: Sequence[str] = ()):
        self._data, self._ends = bytearray(), array("Q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self._data += text.encode("utf-8", "surrogatepass")  # names of files may be no Unicode
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number):
        start = self._ends[number - 1] if number else 0
        return self._data[start : self._ends[number]].decode("utf-8", "surrogatepass")

    def encoded(self, number: int) -> bytes:
        """The UTF-8 bytes of one text."""
        start = self._ends[number - 1] if number else 0
        return bytes(self._data[start : self._ends[number]])

    def identity(self) -> bytes:
        return hashlib.sha256(self._data + self._ends.tobytes()).digest()


class Groups(Sequence[Captions]):
    """The captions of one item after the other, in `Texts`."""

    def __init__(self) -> None:
        self._texts, self._ends = Texts(), array("Q")
        self.filled = 0  # items with captions
        self.longest = 0  # bytes of the longest caption

    def append(self, captions: Captions) -> None:
        for caption in captions:
            self._texts.append(caption)
            self.longest = max(self.longest, len(caption.encode("utf-8")))
        self._ends.append(len(self._texts))
        self.filled += bool(captions)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number):
        start = self._ends[number - 1] if number else 0
        return tuple(self._texts[k] for k in range(start, self._ends[number]))

    def identity(self) -> str:
        """A digest of all texts and of which item has them."""
        return hashlib.sha256(self._texts.identity() + self._ends.tobytes()).hexdigest()

    def encoded(self) -> Iterator[tuple[int, bytes]]:
        """(item, UTF-8 bytes) of every caption."""
        start = 0
        for item, end in enumerate(self._ends):
            for k in range(start, end):
                yield item, self._texts.encoded(k)
            start = end
