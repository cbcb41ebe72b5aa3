"""A prompt file of the user as a task. What its images are worth, rewards say that the user names.

A file of any kind that `items` reads, with the fields `prompt`, `id` (else the line's number), `category` and
`references`: a path or a list of paths, relative to the file. Then the prompt is an instruction. All other fields reach
rewards as what a task says besides its prompt.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ...editing.references import MAX_REFERENCES
from ...errors import Blip3oError, shown
from ...images.reader import image_bytes
from ..interface import Item, Reference
from ..items import Entry, make_items, read_entries
from .options import read_options
from .prompts import PromptTask

_FIELDS = ("prompt", "id", "category", "references")


def open_task(data: Path | None, options: Mapping[str, str]) -> PromptTask:
    read_options("own", options, {})
    if data is None:
        raise Blip3oError("own needs a prompt file. Give --data FILE: .jsonl, .json, .csv or .txt.")
    return PromptTask(make_items(read_entries(data), item_of), "own")


def item_of(number: int, entry: Entry) -> Item:
    """An entry of a prompt file as an item. `number`: its place in the file, which names it where it has no id."""
    named = entry.values.get("id", entry.key)
    name = str(named) if isinstance(named, int) and not isinstance(named, bool) else named
    if not isinstance(name, str):
        raise Blip3oError(f"id is {shown(repr(name), 80)}. It must be text or a whole number.")
    facts = {field: value for field, value in entry.values.items() if field not in _FIELDS}
    category = entry.text("category", "")
    return Item(name or f"{number:05d}", entry.text("prompt"), category, _references(entry), facts)


def _references(entry: Entry) -> tuple[Reference, ...]:
    given = entry.values.get("references", [])
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise Blip3oError(f"references is {shown(repr(given), 80)}. It must be a path or a list of paths.")
    if len(names) > MAX_REFERENCES:
        raise Blip3oError(f"there are {len(names)} references. An edit takes at most {MAX_REFERENCES}.")
    paths = [entry.file.parent / name for name in names]
    for path in paths:
        if not path.is_file():
            raise Blip3oError(f"the reference {shown(path)} does not exist.")
    return tuple(Reference(shown(path.name), partial(image_bytes, path)) for path in paths)
