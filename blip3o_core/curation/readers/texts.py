"""The texts of samples: bytes whose encoding is certain, and what a text file or a JSON object says."""

import codecs
from collections.abc import Mapping
from typing import Any

from ...errors import Blip3oError
from ...files import decode_text
from ...shards.texts import read_texts

TEXT_LIMIT = 2**18  # bytes of one caption; the longest prompt that a checkpoint reads is a hundredth of it
JSON_LIMIT = 2**22  # bytes of a JSON file with facts, or of an entry of a list
_FACT = 1000  # characters of a fact
# A mark at the start makes these certain. The longer ones first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


def marked(head: bytes) -> tuple[str, int]:
    """(the encoding that a byte-order mark names, the mark's length); ("", 0) without one."""
    return next(((encoding, len(mark)) for mark, encoding in _MARKS if head.startswith(mark)), ("", 0))


def decoded(data: bytes, encoding: str = "") -> str:
    """The text of bytes: by their byte-order mark, else by `encoding`, else UTF-8. Raises Blip3oError otherwise."""
    found, length = marked(data)
    name = found or encoding
    if name in ("", "utf-8"):
        try:
            return decode_text(data, "the text")
        except Blip3oError as error:
            raise Blip3oError(f"{error} Or name it in the source's options, such as `encoding: latin-1`.") from None
    try:
        return data[length:].decode(name)
    except ValueError as error:
        raise Blip3oError(f"it is not text in the encoding {name}: {error}. Save it again as UTF-8.") from None


def texts_of(value: Any, what: str = "caption") -> tuple[str, ...]:
    """See `read_texts`."""
    return read_texts(value, what, TEXT_LIMIT)


def texts_in(entry: Mapping, references: int) -> tuple[str, ...]:
    """The captions of an image, or the instructions of an edit, which has references; none where a model may write."""
    captions, instructions = texts_of(entry.get("caption")), texts_of(entry.get("instruction"), "instruction")
    if references and captions and not instructions:
        raise Blip3oError(f"an edit with {references} reference images has a 'caption' and no 'instruction'.")
    if instructions and not references:
        raise Blip3oError("it has an 'instruction' and no reference image.")
    return instructions or captions


def facts_of(entry: Mapping, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The numbers and short texts of an entry, for the report; lists and objects may be of any size."""
    return {
        str(name)[:_FACT]: value[:_FACT] if isinstance(value, str) else value
        for name, value in entry.items()
        if name not in without and isinstance(value, str | int | float | bool)
    }
