"""Training items from a folder with items.jsonl: an object on each line, with paths relative to the folder."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ...errors import Blip3oError, bullet_list, did_you_mean, shown
from ...files import parse_json, read_lines
from .captions import texts_of
from .item_table import ItemTable

LIST = "items.jsonl"
KEYS = ("image", "images", "caption", "instruction")
_EXAMPLE = 'Write {"image": path, "caption": text}.'
_MOST = 10  # faulty lines that are named at once
# What other programs call these keys.
_SYNONYMS = {
    **dict.fromkeys(("text", "txt", "prompt", "captions", "description", "label", "title"), "caption"),
    **dict.fromkeys(("file", "file_name", "filename", "path", "image_path", "target", "output"), "image"),
    **dict.fromkeys(("reference", "references", "reference_image", "source", "input", "conditioning_image"), "images"),
    **dict.fromkeys(("instructions", "edit", "edit_prompt", "edit_instruction"), "instruction"),
}


def read_list(folder: Path, table: ItemTable) -> int:
    """Append the folder's items to `table` -> how many captions were empty. One Blip3oError names all faulty lines."""
    path, faults, empty = folder / LIST, [], 0
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            empty += _append(line, folder, table)
        except Blip3oError as error:
            faults.append(f"{path}, line {number}: {error}")
            if len(faults) > 10_000:  # of a file that is no list at all
                break
    if len(faults) == 1:
        raise Blip3oError(faults[0])
    if faults:
        raise Blip3oError(f"{path} has {len(faults):,} faulty lines:\n{bullet_list(faults, _MOST)}")
    return empty


def _append(line: str, folder: Path, table: ItemTable) -> bool:
    """Append the item of a line -> whether its captions are empty."""
    entry = parse_json(line, f"the line {shown(line, 60)!r}", _EXAMPLE)
    if not isinstance(entry, dict):
        raise Blip3oError(f"{shown(line, 60)!r} is not a JSON object. {_EXAMPLE}")
    for key in entry:
        if key not in KEYS:
            raise Blip3oError(f"{unknown_key(key, entry)} A line can have {', '.join(KEYS)}.")
    if "image" not in entry:
        raise Blip3oError(f"the line has no 'image'. {_EXAMPLE}")
    images = entry.get("images") or []
    names = [entry["image"], *(images if isinstance(images, list) else [images])]
    for name in names:
        if not isinstance(name, str) or not name:
            raise Blip3oError(f"an image is {shown(repr(name))}. Give paths as text, relative to {folder}.")
        _check_file(folder, name)
    captions = texts_of(entry, len(names) - 1, "the line")
    table.append(captions, [(folder, name, -1, 0) for name in names])
    return not captions and any(entry.get(name) is not None for name in ("caption", "instruction"))


def unknown_key(key: str, entry: Mapping) -> str:
    """A sentence about a key that no item has, with the one that may be meant."""
    meant = _SYNONYMS.get(key.lower())
    hint = f"Did you mean {meant}?" if meant and meant not in entry else did_you_mean(key.lower(), KEYS)
    return f"unknown key {shown(repr(key), 60)}. {hint}".rstrip()


def _check_file(folder: Path, name: str) -> None:
    """Raise Blip3oError unless the path is a file of bytes; a pipe would be waited for."""
    try:
        mode = os.stat(folder / name).st_mode
    except (OSError, ValueError):  # ValueError: a zero byte, or half a character
        raise Blip3oError(
            f"image {shown(repr(name))} does not exist. Write paths relative to {folder}, or remove the line."
        ) from None
    if not stat.S_ISREG(mode):
        raise Blip3oError(f"image {shown(repr(name))} is not a regular file. Give an image file, or remove the line.")
