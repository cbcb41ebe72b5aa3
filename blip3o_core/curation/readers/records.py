"""The entries of a list one after the other, as bytes: lines of a JSONL file, or the elements of a JSON list.

Any line ends, a byte-order mark, UTF-16 and UTF-32 are understood. One entry is in memory at a time.
"""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .texts import JSON_LIMIT, WIDE, marked

_CHUNK = 2**16
_QUOTE, _MARK = re.compile(rb'["\\]'), re.compile(rb'["{}\[\],]')


class Record(NamedTuple):
    start: int  # a byte of the list as UTF-8, where reading may begin again
    data: bytes | None  # without ends of lines or commas; None: longer than JSON_LIMIT
    is_cut: bool = False  # the list ends in it, or before it


class Form(NamedTuple):
    """How a list is written."""

    is_list: bool  # of JSON; else lines
    encoding: str  # "" where it is not wide
    mark: int  # bytes of the byte-order mark


def form_of(stream: BinaryIO, encoding: str = "") -> Form:
    """By the first bytes: JSON begins with ASCII, so the zeros of UTF-16 and UTF-32 are certain without a mark, too."""
    stream.seek(0)
    head = stream.read(_CHUNK)
    found, mark = marked(head)
    if not found:
        zeros = [byte == 0 for byte in head[:4].ljust(4, b"x")]
        bare = {(0, 1, 1, 1): "utf-32-le", (1, 1, 1, 0): "utf-32-be", (0, 1): "utf-16-le", (1, 0): "utf-16-be"}
        found = bare.get((*zeros,)) or bare.get((*zeros[:2],)) or encoding.lower().replace("_", "-")  # type: ignore[call-overload]
    text = head[mark:].replace(b"\0", b"") if found in WIDE else head[mark:]
    return Form(text.lstrip()[:1] == b"[", found if found in WIDE else "", mark)


def records(stream: BinaryIO, form: Form, start: int = 0) -> Iterator[Record]:
    """The entries from the one that begins at `start`."""
    chunks = _chunks(stream, form, start)
    return _elements(chunks, start) if form.is_list else _lines(chunks, start)


def _chunks(stream: BinaryIO, form: Form, start: int) -> Iterator[bytes]:
    """UTF-8, or what a user's encoding for single bytes is."""
    if not form.encoding:
        stream.seek(form.mark + start)
        while chunk := stream.read(_CHUNK):
            yield chunk
        return
    stream.seek(form.mark)
    decoder = codecs.getincrementaldecoder(form.encoding)("surrogatepass")
    while True:
        data = stream.read(_CHUNK)
        try:
            chunk = decoder.decode(data, final=not data).encode("utf-8", "surrogatepass")
        except UnicodeError:
            chunk, data = b"\xff", b""  # the line where it stands will be found not to be text
        skipped = min(start, len(chunk))
        start -= skipped
        yield chunk[skipped:]
        if not data:
            return


def _lines(chunks: Iterator[bytes], at: int) -> Iterator[Record]:
    held, dropped = bytearray(), 0
    for chunk in chunks:
        for line in chunk.splitlines(keepends=True):
            if held.endswith(b"\r") and line != b"\n":
                yield _record(at, held, dropped)
                at, held, dropped = at + dropped + len(held), bytearray(), 0
            held += line
            if line.endswith(b"\n"):
                yield _record(at, held, dropped)
                at, held, dropped = at + dropped + len(held), bytearray(), 0
            if len(held) > JSON_LIMIT:
                dropped, held = dropped + len(held) - 1, held[-1:]
    if held:
        yield _record(at, held, dropped)


def _record(start: int, held: bytearray, dropped: int) -> Record:
    return Record(start, None if dropped or len(held) > JSON_LIMIT else bytes(held.strip(b" \t\r\n")))


def _elements(chunks: Iterator[bytes], at: int) -> Iterator[Record]:
    """The elements of a list, told apart by commas and brackets alone: a fault in one does not touch the next.

    `at` 0: the list's own bracket is still to come.
    """
    depth, marks = int(at > 0), _Marks()
    held, dropped, begin = bytearray(), 0, at
    for chunk in chunks:
        taken = 0
        for mark, place in marks.of(chunk):
            depth += (mark in b"{[") - (mark in b"}]")
            if depth == 1 and mark == b"[" and begin == 0:
                taken, begin = place, at + place
            elif depth == 0 or (depth == 1 and mark == b","):
                held += chunk[taken : place - 1]
                if dropped or held.strip():
                    yield _record(begin, held, dropped)
                if depth == 0:
                    return
                held, dropped, taken, begin = bytearray(), 0, place, at + place
        held += chunk[taken:]
        at += len(chunk)
        if len(held) > JSON_LIMIT:
            held, dropped = bytearray(), 1
    if depth == 1 and held.strip():  # the last element is whole; its comma or bracket is missing
        yield _record(begin, held, dropped)
        held, begin = bytearray(), at
    if depth:
        yield Record(begin, bytes(held.strip()), is_cut=True)


class _Marks:
    """The brackets and commas of JSON that are not inside of texts."""

    def __init__(self) -> None:
        self._quoted = self._escaped = False

    def of(self, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        """(mark, where it ends) of the next chunk."""
        place = int(self._escaped and bool(chunk))
        self._escaped = self._escaped and not chunk
        while found := (_QUOTE if self._quoted else _MARK).search(chunk, place):
            mark, place = found[0], found.end()
            if mark == b"\\":
                self._escaped = place == len(chunk)
                place += 1
            elif mark == b'"':
                self._quoted = not self._quoted
            else:
                yield mark, place
