"""A row of a table, or an entry of a list, becomes a sample. Images are bytes, or paths of files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import Blip3oError, shown
from ...files import read_bytes
from ...images.reader import MAX_BYTES
from ..sample import Broken, Sample
from .columns import ONLY_EDITS, Columns, choose
from .groups import reason_of
from .options import Options
from .texts import decoded, facts_of, texts_of

_MOST_PATH = 4096  # characters


class Rows:
    """`folder`: what paths are relative to."""

    def __init__(self, folder: Path, options: Options):
        self.folder, self.options = folder, options
        self._columns: tuple[tuple[str, ...], Columns] | None = None  # of the last row: most have the same

    def sample(self, row: Mapping[str, Any], key: str, place: str) -> Sample | Broken:
        try:
            columns = self._columns_of(tuple(row))
            images = self._images(row[columns.image], columns.image)
            if len(images) != 1:
                raise Blip3oError(f"{shown(columns.image)!r} has {len(images)} images; the target is one.")
            references = [
                one for name in columns.references for one in self._images(row.get(name), name) if name in row
            ]
            texts = self._texts(row, columns)
            if references and not texts:
                raise Blip3oError(f"It has {len(references)} reference images and no text that says what to do.")
            if texts and not references and columns.texts[0].lower() in ONLY_EDITS:
                raise Blip3oError(f"It has {shown(columns.texts[0])!r} and no reference image.")
            if not (texts or references):
                file = row[columns.image]
                texts = self.options.default_texts(Path(file).stem if isinstance(file, str) else "")
        except Blip3oError as error:
            return Broken(place, reason_of(error, place))
        used = (columns.image, *columns.references, *columns.texts)
        meta = facts_of(row, used)
        if isinstance(row[columns.image], str):
            meta["file"] = shown(row[columns.image])
        return Sample(key, place, images[0], tuple(references), texts, meta)

    def files(self, row: Mapping[str, Any]) -> Iterator[Path]:
        """The files that its images are in, whether they exist or not."""
        try:
            columns = self._columns_of(tuple(row))
        except Blip3oError:
            return
        for name in (columns.image, *columns.references):
            yield from self.files_of(row.get(name))

    def files_of(self, value: Any) -> Iterator[Path]:
        """The files of what a column of images holds."""
        if isinstance(value, list | tuple):
            for one in value:
                yield from self.files_of(one)
        elif isinstance(value, Mapping):
            yield from self.files_of(value.get("bytes") or value.get("path"))
        elif _is_path(value):
            yield self.folder / value

    def _columns_of(self, names: tuple[str, ...]) -> Columns:
        if self._columns is None or self._columns[0] != names:
            self._columns = names, choose(names, self.options)
        return self._columns[1]

    def _texts(self, row: Mapping[str, Any], columns: Columns) -> tuple[str, ...]:
        # In the reflect set of X2I2, `used_instruction` says which key has the instruction.
        named = row.get("used_instruction")
        names = (named,) if isinstance(named, str) and named in row and not self.options.text else columns.texts
        found: list[str] = []
        for name in names:
            value = row.get(name)
            text = decoded(value, self.options.encoding) if isinstance(value, bytes) else value
            found += texts_of(text, shown(name))
        return tuple(found)

    def _images(self, value: Any, name: str) -> list[bytes]:
        if value is None:
            return []
        if isinstance(value, list | tuple):
            return [image for one in value for image in self._images(one, name)]
        if isinstance(value, Mapping):  # as `datasets` writes an image
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            if not 0 < len(value) <= MAX_BYTES:
                raise Blip3oError(f"{shown(name)!r} has {len(value):,} bytes, which are not an image.")
            return [value]
        if not isinstance(value, str) or not value:
            raise Blip3oError(f"{shown(name)!r} is {shown(repr(value), 60)}. It must be the path of an image.")
        if not _is_path(value):
            raise Blip3oError(f"{shown(name)!r} has the image itself as text. Write it to a file, and its path here.")
        path = self.folder / value
        data = read_bytes(path, "Correct the path, or name the folder of the images as the option `images`.", MAX_BYTES)
        if not data:
            raise Blip3oError(f"{shown(path)} is empty.")
        return [data]


def _is_path(value: Any) -> bool:
    """Whether it may be one, and is not an image itself as text."""
    return isinstance(value, str) and 0 < len(value) <= _MOST_PATH and not value.startswith("data:")
