"""Samples from a list: JSONL, or a JSON list, of objects with paths of images and texts.

A faulty line is reported with its number, and the others are read. Paths may lead anywhere that the user may read: a
list is taken at its word, like `items.jsonl` in training.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import Blip3oError, first_line
from ...files import open_regular, parse_json
from ..sample import Broken, Sample
from .columns import choose
from .groups import reason_of
from .options import Options
from .pieces import Piece
from .records import Form, Record, form_of, records
from .rows import Rows
from .source_files import REMEDY, Watched, read_file
from .texts import JSON_LIMIT

PIECE_LINES = 1000
_BLANK = b" \t\xef\xbb\xbf"  # and a byte-order mark, as in files that were put together
_LOOKED_AT, _LEVELS = 20, 4  # entries, and folders from the list's own upwards, to find where the images are


def list_pieces(path: Path, name: str, options: Options) -> Iterator[Piece]:
    """The pieces of a list, and the folder that its paths are relative to, in their options."""
    values, parts = options.values(), list[tuple[int, Watched]]()
    try:
        with open_regular(path, REMEDY) as stream:
            form = form_of(stream, options.encoding)
            entries = _good_entries(records(stream, form), form, options)
            values.setdefault("images", str(_image_folder(path, islice(entries, _LOOKED_AT), options)))
            for part in _parts(stream, form, Rows(Path(values["images"]), options)):
                parts.append(part)
    except (Blip3oError, OSError):
        pass  # it is reported when it is read
    parts = parts or [(0, Watched(path))]
    for number, (start, watched) in enumerate(parts):
        first = number * PIECE_LINES
        last = first + PIECE_LINES if number + 1 < len(parts) else None
        several = f"{name}-{number:05d}" if len(parts) > 1 else name
        yield Piece(several, "list", str(path), first, last, start, values, watched.state())


def _parts(stream: BinaryIO, form: Form, rows: Rows) -> Iterator[tuple[int, Watched]]:
    """(where it starts, its lines and the images that they name) of each piece."""
    found = records(stream, form)
    for record in found:
        watched = Watched()
        for one in (record, *islice(found, PIECE_LINES - 1)):
            watched.note(one.data or b"")
            for entry in _good_entries(iter([one]), form, rows.options):
                for file in rows.files(entry):
                    watched.add(file)
        yield record.start, watched


def read_list(piece: Piece) -> Iterator[Sample | Broken]:
    yield from read_file(piece, lambda stream, place: _samples(stream, place, piece))


def _samples(stream: BinaryIO, path: str, piece: Piece) -> Iterator[Sample | Broken]:
    options = Options.of(piece.options)
    form = form_of(stream, options.encoding)
    rows = Rows(Path(options.images or Path(piece.path).parent), options)
    word, number = "entry" if form.is_list else "line", piece.first
    found = records(stream, form, piece.start)
    try:
        for record in islice(found, None if piece.last is None else piece.last - piece.first):
            number += 1
            if record.data is None or record.is_cut or record.data.strip(_BLANK):
                yield _sample(record, form, rows, number, f"{path}, {word} {number}")
    except OSError as error:
        yield Broken(f"{path}, after {word} {number}", f"It cannot be read further: {first_line(error)}.")
    if not number:
        yield Broken(path, "It is empty.")


def _sample(record: Record, form: Form, rows: Rows, number: int, place: str) -> Sample | Broken:
    try:
        return rows.sample(_entry(record, form, rows.options), f"{number:08d}", place)
    except Blip3oError as error:
        return Broken(place, reason_of(error, place))


def _entry(record: Record, form: Form, options: Options) -> dict[str, Any]:
    if record.data is None:
        raise Blip3oError(f"it has more than {JSON_LIMIT:,} bytes.")
    if record.is_cut:
        raise Blip3oError("the list is cut short here. Copy it again from where it came from.")
    encoding = "utf-8" if form.encoding else options.encoding or "utf-8"
    try:
        text = record.data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Blip3oError(
            f"it is not {encoding} text: byte {error.start} is 0x{record.data[error.start]:02x}. Save the list as "
            "UTF-8, or name its encoding in the source's options, such as `encoding: latin-1`."
        ) from None
    entry = parse_json(text.lstrip("\ufeff"), "it", "Write it again.")
    if not isinstance(entry, dict):
        raise Blip3oError(f"it must be a JSON object, but is a {type(entry).__name__}.")
    return entry


def _good_entries(found: Iterator[Record], form: Form, options: Options) -> Iterator[dict[str, Any]]:
    for record in found:
        try:
            yield _entry(record, form, options)
        except Blip3oError:
            continue


def _image_folder(path: Path, entries: Iterable[dict[str, Any]], options: Options) -> Path:
    """The list's folder, or the nearest one above it in which an image of the first entries exists."""
    names = []
    for entry in entries:
        try:
            value = entry[choose(entry, options).image]
        except Blip3oError:
            continue
        names += [value] if isinstance(value, str) else []
    for folder in (path.parent, *path.resolve().parent.parents[: _LEVELS - 1]):
        if any(_exists(folder / name) for name in names):
            return folder
    return path.parent


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_list(path: Path, options: Options) -> bool:
    """Whether a .json file has entries with images, and not facts or settings."""
    try:
        with open_regular(path, REMEDY) as stream:
            form = form_of(stream, options.encoding)
            return form.is_list or bool(choose(_entry(next(records(stream, form)), form, options), options))
    except (Blip3oError, OSError, StopIteration):
        return False
