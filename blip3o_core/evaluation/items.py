"""Prompt files of benchmarks -> items: JSONL, JSON, CSV, lines of text, or a folder with a text file for each prompt.

A file's faults are named together, each with its place. What a benchmark's fields mean, its task says.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, bullet_list, did_you_mean, shown
from ..files import parse_json, read_csv, read_lines, read_text
from .interface import Item

KINDS = (".jsonl", ".json", ".csv", ".txt")
_MOST = 10  # faults that are named at once
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")  # names of files are made of it: none is hidden, none is ".."
_REMEDY = f"Give a prompt file ({', '.join(KINDS)}) in UTF-8."


@dataclass(frozen=True)
class Entry:
    """What a file says of one prompt. `fault`: why it cannot be read; `make_items` reports it."""

    file: Path
    place: str  # in the file, such as "line 3"; "" for a whole file
    values: Mapping[str, Any] = field(default_factory=dict)  # a line of text, or a whole text file, is its "prompt"
    key: str = ""  # its name in an object of entries, or its file's name without the ending
    fault: str = ""

    @property
    def where(self) -> str:
        return f"{shown(self.file.name)}, {self.place}" if self.place else shown(self.file.name)

    def text(self, name: str, default: str | None = None) -> str:
        """A field with text in it. Raises Blip3oError where it is missing, empty or anything else."""
        value = self._value(name, default)
        if not isinstance(value, str) or (not value.strip() and value != default):
            raise Blip3oError(f"{name} is {shown(repr(value), 80)}. It must be text.")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Blip3oError(f"{name} is {shown(repr(value), 80)}, which has half a character in it.") from None
        return value

    def texts(self, name: str) -> list[str]:
        """A field with a list of texts."""
        value = self._value(name, None)
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.strip() for one in value):
            raise Blip3oError(f"{name} is {shown(repr(value), 80)}. It must be a list of texts.")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A field with a whole number, which a CSV file has as text."""
        value = self._value(name, default)
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Blip3oError(f"{name} is {shown(repr(value), 80)}. It must be a whole number.")
        return value

    def _value(self, name: str, default: Any) -> Any:
        if name in self.values:
            return self.values[name]
        if default is not None:
            return default
        names = [str(one) for one in self.values]
        hint = did_you_mean(name, names) or f"It has {shown(', '.join(names), 80) or 'none'}."
        raise Blip3oError(f"the field {name!r} is missing. {hint}")


def find_file(data: Path | None, names: Sequence[str], remedy: str) -> Path:
    """The first of `names` that exists in the folder `data`, or `data` where it is the file itself.

    Raises Blip3oError, which ends with `remedy`: where the benchmark is published and what to give.
    """
    if data is None:
        raise Blip3oError(f"The prompts of this benchmark are not part of this project. {remedy}")
    if not data.is_dir():
        if not data.exists():
            raise Blip3oError(f"{shown(data)} does not exist. {remedy}")
        return data
    found = next((data / name for name in names if (data / name).exists()), None)
    if found is None:
        raise Blip3oError(f"The folder {shown(data)} contains no {' and no '.join(names)}. {remedy}")
    return found


def read_entries(path: Path) -> list[Entry]:
    """The entries of a file or of a folder of .txt files, in order. A line, a row and an object are one entry each.

    Raises Blip3oError where the file is empty, is not UTF-8, or is anything else as a whole.
    """
    kind = path.suffix.lower()
    if path.is_dir():
        entries = _folder(path)
    elif kind == ".jsonl":
        entries = [_parsed(path, number, line) for number, line in _full_lines(path)]
    elif kind == ".json":
        entries = _json(path)
    elif kind == ".csv":
        entries = _table(path)
    elif kind == ".txt":
        entries = [Entry(path, f"line {number}", {"prompt": line.strip()}) for number, line in _full_lines(path)]
    else:
        raise Blip3oError(f"{shown(path)} has the ending {shown(repr(path.suffix))}. {_REMEDY}")
    if not entries:
        raise Blip3oError(f"{shown(path)} contains no prompts. {_REMEDY}")
    return entries


def make_items(entries: Sequence[Entry], make: Callable[[int, Entry], Item]) -> list[Item]:
    """`make(number from 0, entry)` for each. One Blip3oError names the faulty ones, ids that occur twice included."""
    items: list[Item] = []
    faults: list[str] = []
    places: dict[str, Entry] = {}
    for number, entry in enumerate(entries):
        try:
            if entry.fault:
                raise Blip3oError(entry.fault)
            item = make(number, entry)
            _check(item)
            # Files get the ids as names, and on some systems capital letters count as small ones.
            first = places.setdefault(item.id.casefold(), entry)
            if first is not entry:
                raise Blip3oError(f"the id {item.id!r} is that of {first.where}, too. Give each prompt its own.")
        except Blip3oError as error:
            faults.append(f"{entry.where}: {error}")
            continue
        items.append(item)
    if faults:
        folders = dict.fromkeys(shown(entry.file.parent) for entry in entries if entry.file.parent != Path())
        where = f" in {' and '.join(folders)}" if folders else ""
        raise Blip3oError(f"Faulty prompts{where}:\n{bullet_list(faults, _MOST)}")
    return items


def _check(item: Item) -> None:
    if not _ID.fullmatch(item.id):
        raise Blip3oError(
            f'the id is {shown(repr(item.id), 80)}. It must have 1 to 100 of the characters A-Z a-z 0-9 "_" "-" ".", '
            "and must not begin with a dot."
        )
    if not item.prompt.strip():
        raise Blip3oError("the prompt is empty.")
    if not item.category.isprintable() or len(item.category) > 100:
        raise Blip3oError(
            f"the category is {shown(repr(item.category), 80)}. Give a short name, which becomes a row of the table."
        )


def _full_lines(path: Path) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(read_lines(path, _REMEDY), 1) if line.strip()]


def _parsed(path: Path, number: int, line: str) -> Entry:
    place = f"line {number}"
    try:
        value = parse_json(line, "it", f"It starts with {shown(repr(line[:40]))}.")
    except Blip3oError as error:
        return Entry(path, place, fault=str(error))
    return _entry(path, place, value)


def _entry(path: Path, place: str, value: Any, key: str = "") -> Entry:
    if isinstance(value, dict):
        return Entry(path, place, value, key)
    return Entry(path, place, fault=f"it is {shown(repr(value), 60)}. It must be a JSON object.")


def _json(path: Path) -> list[Entry]:
    text = read_text(path, _REMEDY)
    if not text.strip():
        return []
    content = parse_json(text, shown(path), "A file with an object on each line has the ending .jsonl.")
    if isinstance(content, dict) and any(isinstance(value, dict) for value in content.values()):
        named = list(content.items())
    elif isinstance(content, list):
        named = [("", value) for value in content]
    else:
        raise Blip3oError(f"{shown(path)} must contain a list of objects, but contains {shown(repr(content), 60)}.")
    lines = _lines_of_elements(text)
    return [_entry(path, f"line {line}", value, key) for line, (key, value) in zip(lines, named, strict=True)]


def _lines_of_elements(text: str) -> Iterator[int]:
    """The line in which each element of a JSON list or object begins; the text is known to be one of them."""
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,:]*")
    at = len(text) - len(text.lstrip())
    is_object, line, counted = text[at] == "{", 1, 0
    at = gap.match(text, at + 1).end()  # type: ignore[union-attr]
    while text[at] not in "]}":
        line, counted = line + text.count("\n", counted, at), at
        yield line
        for _ in range(1 + is_object):  # an element of an object has a name before it
            at = gap.match(text, decoder.raw_decode(text, at)[1]).end()  # type: ignore[union-attr]


def _table(path: Path) -> list[Entry]:
    (_, names), *rows = read_csv(path) or [(1, [])]
    names = [name.strip() for name in names]
    if len(names) == 1 and (mark := next((mark for mark in ";\t" if mark in names[0]), "")):
        raise Blip3oError(f"{shown(path)}, line 1, has {mark!r} between its columns. Save it again with commas.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise Blip3oError(f"{shown(path)}, line 1, names the column {shown(repr(twice[0]))} twice.")
    return [_row(path, f"line {number}", names, cells) for number, cells in rows]


def _row(path: Path, place: str, names: Sequence[str], cells: Sequence[str]) -> Entry:
    if len(cells) != len(names):
        return Entry(
            path,
            place,
            fault=f"it has {len(cells)} cells for {len(names)} columns. Put texts with commas in quotes.",
        )
    return Entry(path, place, {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()})


def _folder(path: Path) -> list[Entry]:
    """A prompt in each .txt file, those with numbers in the order of the numbers. Hidden files are left out."""
    files = [file for file in path.iterdir() if file.suffix.lower() == ".txt" and not file.name.startswith(".")]
    return [_whole_file(file) for file in sorted(files, key=lambda file: _by_number(file.stem))]


def _whole_file(file: Path) -> Entry:
    try:
        return Entry(file, "", {"prompt": read_text(file, _REMEDY).strip()}, file.stem)
    except Blip3oError as error:
        return Entry(file, "", fault=str(error))


def _by_number(stem: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"[0-9]{1,18}|[^0-9]+", stem)
    ]
