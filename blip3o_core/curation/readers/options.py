"""What a user can say about a source: the names of its columns, the folder of its images, its encoding."""

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import Blip3oError, did_you_mean, shown

NAME = "%name%"  # in a caption
NAMES = {
    "image": "the column or key of the target image",
    "references": "the columns or keys of the reference images of an edit",
    "text": "the columns or keys of the captions or instructions",
    "images": "the folder that the paths of a list or parquet file are relative to",
    "caption": "the caption of images that have none; %name% in it is the name of the file",
    "encoding": "the encoding of texts and lists that are not UTF-8, such as latin-1",
}


@dataclass(frozen=True)
class Options:
    """An empty value: the reader looks for itself."""

    image: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    images: str = ""
    caption: str = ""
    encoding: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Options":
        """Raises Blip3oError for a name that no reader knows, or a value that is not text."""
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in NAMES:
                hint = did_you_mean(str(name), list(NAMES)) or f"Known options are {', '.join(NAMES)}."
                raise Blip3oError(f"{shown(repr(name))} is not an option of a source. {hint}")
            several = list(value) if isinstance(value, list | tuple) else [value]
            if not several or not all(isinstance(one, str) and one for one in several):
                raise Blip3oError(
                    f"The option {name!r} of a source is {shown(repr(value))}. It must be text: {NAMES[name]}."
                )
            if name in ("references", "text"):
                checked[name] = tuple(several)
            elif len(several) > 1:
                raise Blip3oError(f"The option {name!r} of a source must be one text, not {len(several)}.")
            else:
                checked[name] = tuple(several) if name == "image" else several[0]
        if "encoding" in checked:
            _check_encoding(checked["encoding"])
        return cls(**checked)

    def default_texts(self, name: str) -> tuple[str, ...]:
        """The texts of an image that has none. `name`: what its file is called, without the ending; '' for none.

        Raises Blip3oError where the caption wants a name and there is none.
        """
        if NAME not in self.caption:
            return (self.caption,) if self.caption else ()
        words = re.sub(r"[\s_-]+", " ", name.rpartition("/")[2]).strip()
        if not words:
            raise Blip3oError(f"it has no text, and no name of a file for {NAME} in the option 'caption'.")
        return (self.caption.replace(NAME, words),)

    def values(self) -> dict[str, Any]:
        """What was given, as plain values for JSON."""
        given = {name: getattr(self, name) for name in NAMES}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}


def _check_encoding(name: str) -> None:
    try:
        if isinstance("".encode(name), bytes) and codecs.lookup(name):
            return
    except (LookupError, ValueError):
        pass
    raise Blip3oError(
        f"The option 'encoding' is {shown(repr(name))}, which Python does not know. Try latin-1 or gb18030."
    )
