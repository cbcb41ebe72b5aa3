"""What may be a text of an item, wherever it is read from: a list, a shard, a packed file or a source of curation."""

from typing import Any

from ..errors import Blip3oError, shown


def read_texts(value: Any, what: str = "caption", most: int | None = None) -> tuple[str, ...]:
    """A text, a list of texts or None, as read from a file. Empty texts are left out.

    `most`: characters of one. Raises Blip3oError, whose sentence begins with `what`.
    """
    texts = [] if value is None else value if isinstance(value, list | tuple) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise Blip3oError(f"the {what} is {shown(repr(text))}. It must be text, or absent for a reconstruction.")
        if most is not None and len(text) > most:
            raise Blip3oError(f"the {what} has {len(text):,} characters; a text may have {most:,}. Shorten it.")
        if not is_unicode(text):
            raise Blip3oError(f"the {what} {shown(repr(text), 60)} has half a character in it. Write it anew.")
    return tuple(text.strip() for text in texts if text.strip())


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which JSON can spell and no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
