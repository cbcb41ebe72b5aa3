"""Rows with images from a set of the Hugging Face hub: parquet files, what `save_to_disk` writes, or a list of files.

Texts are read at once; an image is read each time it is asked for.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...errors import Blip3oError, first_line, shown
from ...files import open_regular, read_bytes
from ...images.reader import MAX_BYTES, REMEDY
from ..items import KINDS, Entry, read_entries

if TYPE_CHECKING:
    from pyarrow import Table

IMAGES = ("input_image_raw", "input_image")
_LIST = "metadata.jsonl"  # of the hub's image folders
_REMEDY = (
    "Download stepfun-ai/GEdit-Bench from the Hugging Face hub and give --data its folder: with parquet files, with "
    f"arrow files as save_to_disk writes them, or with {_LIST} and the image files that it names."
)


@dataclass(frozen=True)
class ImageRow:
    entry: Entry
    image: Callable[[str], bytes]  # the file in a column of images


def read_rows(data: Path | None) -> list[ImageRow]:
    """All rows in a folder or file, in order. Raises Blip3oError where there are none, or a file cannot be read."""
    if data is None or not data.exists():
        words = (
            "The edits of this benchmark are not part of this project" if data is None else f"{shown(data)} is missing"
        )
        raise Blip3oError(f"{words}. {_REMEDY}")
    if data.is_dir():
        files = sorted(data.rglob("*.parquet")) or sorted(data.rglob("*.arrow"))
        files = files or [file for file in (data / _LIST,) if file.is_file()]
    else:
        files = [data]
    rows = [row for file in files for row in _rows(file)]
    if not rows:
        raise Blip3oError(f"{shown(data)} contains no edits. {_REMEDY}")
    return rows


def _rows(file: Path) -> Iterator[ImageRow]:
    kind = file.suffix.lower()
    if kind in KINDS:
        for entry in read_entries(file):
            yield ImageRow(entry, partial(_listed, entry))
        return
    stored = _Parquet(file) if kind == ".parquet" else _Arrow(file)
    with _naming(file):
        texts = stored.texts().to_pylist()
    for number, values in enumerate(texts):
        entry = Entry(file, f"row {number}", values)
        yield ImageRow(entry, partial(_stored, stored, entry, number))


def _listed(entry: Entry, column: str) -> bytes:
    return _beside(entry, entry.text(column, entry.values.get("file_name")))


def _stored(stored: "_Parquet | _Arrow", entry: Entry, number: int, column: str) -> bytes:
    with _naming(entry.file):
        value = stored.image(number, column)
    value = value if isinstance(value, Mapping) else {"bytes": value}
    if isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    if isinstance(value.get("path"), str):
        return _beside(entry, value["path"])
    raise Blip3oError(f"{entry.where}: {column} is {shown(repr(value), 80)}, not an image. {_REMEDY}")


def _beside(entry: Entry, name: str) -> bytes:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Blip3oError(
            f"{entry.where}: {shown(repr(name), 80)} must be the name of a file in the folder of the list."
        )
    return read_bytes(entry.file.parent / path, REMEDY, MAX_BYTES)


class _Arrow:
    """A file of the Arrow format, mapped into memory: a row costs what it has."""

    def __init__(self, file: Path):
        self._table = self._open(file)

    def texts(self) -> "Table":
        return self._table.drop_columns([name for name in IMAGES if name in self._table.column_names])

    def image(self, number: int, column: str) -> Any:
        return self._table.column(column)[number].as_py()

    @staticmethod
    def _open(file: Path) -> "Table":
        pyarrow = _pyarrow()
        with open_regular(file, _REMEDY) as stream, _naming(file):
            is_file = stream.read(6) == b"ARROW1"
            mapped = pyarrow.memory_map(str(file))
            return (pyarrow.ipc.open_file(mapped) if is_file else pyarrow.ipc.open_stream(mapped)).read_all()


class _Parquet:
    """A parquet file: the images of one group of rows are read together, and kept until others are asked for."""

    def __init__(self, file: Path):
        pyarrow, self._lock = _pyarrow(), threading.Lock()
        open_regular(file, _REMEDY).close()
        with _naming(file):
            self._file = pyarrow.parquet.ParquetFile(file)
        metadata, self._begins = self._file.metadata, [0]
        for group in range(metadata.num_row_groups):
            self._begins.append(self._begins[-1] + metadata.row_group(group).num_rows)
        self._group = lru_cache(len(IMAGES))(lambda group, column: self._file.read_row_group(group, columns=[column]))

    def texts(self) -> "Table":
        return self._file.read(columns=[name for name in self._file.schema_arrow.names if name not in IMAGES])

    def image(self, number: int, column: str) -> Any:
        group = next(place for place, end in enumerate(self._begins[1:]) if number < end)
        with self._lock:  # several questions at once read images
            table = self._group(group, column)
        return table.column(column)[number - self._begins[group]].as_py()


class _naming:
    """What goes wrong inside a file of the set becomes a Blip3oError that names it."""

    def __init__(self, file: Path):
        self._file = file

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError | KeyError) and not isinstance(error, Blip3oError):
            raise Blip3oError(f"{shown(self._file)} cannot be read: {first_line(error)}. {_REMEDY}") from error


def _pyarrow() -> Any:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise Blip3oError(
            f"Reading parquet and arrow files needs another package: {error}. Install it with pip install -e "
            "'.[curate]' in the folder of this project."
        ) from error
    return pyarrow
