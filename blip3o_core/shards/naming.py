"""Which members of a shard, or files of a folder, belong to one item, by their names alone."""

import posixpath
import re
from typing import Literal, NamedTuple

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
TEXT_SUFFIXES = (".txt", ".caption", ".json")  # the first that an item has is its text
_REFERENCE = re.compile(r"(.+)\.reference([0-9]{0,9})")
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # of Windows and macOS


class Role(NamedTuple):
    """What a name says: 0001.reference2.png is reference 2 of 0001."""

    stem: str
    kind: Literal["image", "reference", "text", "other"]
    suffix: str
    number: int = 0  # of a reference


def role_of(name: str) -> Role:
    stem, suffix = posixpath.splitext(name)
    suffix = suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        reference = _REFERENCE.fullmatch(stem)
        if reference:
            return Role(reference[1], "reference", suffix, int(reference[2] or 0))
        return Role(stem, "image", suffix)
    return Role(stem, "text" if suffix in TEXT_SUFFIXES else "other", suffix)


def is_hidden(path: str) -> bool:
    """macOS adds ._0001.jpg and .DS_Store to what it packs, Windows Thumbs.db to what it shows."""
    return any(
        (part.startswith(".") and part not in (".", "..")) or part.lower() in _LITTER for part in path.split("/")
    )
