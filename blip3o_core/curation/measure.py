"""Pass 1: a piece -> the table of its features, a row for every sample and every broken member."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Blip3oError
from ..shards.texts import is_unicode
from ..shards.write import ending_of
from .before import Before, asks_again, stamp_of
from .decisions import judge_column
from .features import measure_sample
from .models.stage import AGAIN, FAULTS, Row, uses_models, with_models
from .sample import Broken, Sample
from .settings import MOST_CHARACTERS, CurationSettings
from .work import Work, made_from, measured_from, write_table

if TYPE_CHECKING:
    from pyarrow import Schema, Table

    from .readers.pieces import Piece

_ROWS = 1000  # in memory at a time

COLUMNS = {
    "key": "string", "place": "string", "kind": "string", "broken": "string", "texts": "list<string>",
    "bytes": "int64", "format": "string", "mode": "string", "width": "int32", "height": "int32", "side": "int32",
    "aspect": "float64", "sharpness": "float64", "dark": "float64", "bright": "float64", "contrast": "float64",
    "colourfulness": "float64", "hash": "uint64",
    "words": "list<int32>", "characters": "list<int32>", "ascii": "list<float64>", "letters": "list<float64>",
    "repetition": "list<float64>", "language": "list<string>",
    "references": "int32", "reference_hashes": "list<uint64>", "reference_side": "int32", "distance": "int32",
    "changed": "float64", "aspect_difference": "float64",
    "stamp": "binary",  # see `stamp_of`; none where the sample cannot be read
}  # fmt: skip


def schema(settings: CurationSettings) -> "Schema":
    import pyarrow as pa

    types = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "uint64": pa.uint64()}
    types |= {"float64": pa.float64(), "binary": pa.binary()}
    fields = [
        pa.field(name, pa.list_(types[kind[5:-1]]) if kind.startswith("list<") else types[kind])
        for name, kind in COLUMNS.items()
    ]
    fields += [pa.field(judge_column(judge.name), pa.float64()) for judge in settings.judges]
    if uses_models(settings):
        fields += [pa.field(name, pa.list_(pa.string())) for name in (FAULTS, AGAIN)]
    return pa.schema(fields)


def is_measured(work: Work, piece: "Piece", rules: str) -> bool:
    """Whether the features of a piece are there, and no model is to be asked again. `rules`: see `work.rules_of`."""
    path = work.features(piece.name)
    return made_from(path)[0] == measured_from(piece, rules) and not asks_again(path)


def measure(piece: "Piece", settings: CurationSettings, rules: str) -> Path:
    """Write the features of a piece, unless they are there -> their file.

    Samples that are as they were keep their features; models are asked about those alone that they have not answered.
    """
    work = Work(Path(settings.out))
    path = work.features(piece.name)
    if not is_measured(work, piece, rules):
        rows = with_models(_measured(piece, rules, Before(path)), settings, piece.name)
        write_table(path, _tables(rows, schema(settings)), schema(settings), measured_from(piece, rules))
    return path


def _tables(found: Iterable[dict[str, Any]], columns: "Schema") -> Iterator["Table"]:
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for row in found:
        rows.append(row)
        if len(rows) == _ROWS:
            yield pa.Table.from_pylist(rows, columns)
            rows.clear()
    if rows:
        yield pa.Table.from_pylist(rows, columns)


def _measured(piece: "Piece", rules: str, before: Before) -> Iterator[Row]:
    """The rows of a piece, one after the other."""
    from .readers.find import read

    keys: set[str] = set()
    for found in read(piece):
        if isinstance(found, Sample) and found.key in keys:
            found = Broken(found.place, "An earlier sample of the same piece has its name. Rename one of them.")
        if isinstance(found, Broken):
            yield Row({"place": found.place, "broken": found.reason})
            continue
        keys.add(found.key)
        sample = dataclasses.replace(found, texts=tuple(text.strip() for text in found.texts if text.strip()))
        stamp = stamp_of(sample, rules)
        known = before.row(stamp)
        if known is not None and not known.get(AGAIN):
            yield Row({**known, "key": sample.key, "place": sample.place})
            continue
        row = _row(sample)
        yield Row(row) if "broken" in row else Row({**row, "stamp": stamp}, sample, known)


def _row(sample: Sample) -> dict[str, Any]:
    head = {"key": sample.key, "place": sample.place, "kind": sample.kind}
    try:
        _check_texts(sample)
        for data in (sample.image, *sample.references):
            ending_of(data, sample.place)
        return {**head, "texts": list(sample.texts), **measure_sample(sample)}
    except Blip3oError as error:
        return {**head, "broken": str(error)}


def _check_texts(sample: Sample) -> None:
    """Raise Blip3oError for texts that no shard holds."""
    for text in sample.texts:
        if len(text) > MOST_CHARACTERS:
            raise Blip3oError(
                f"A text has {len(text):,} characters; at most {MOST_CHARACTERS:,} make sense. Shorten it."
            )
        if not is_unicode(text):
            raise Blip3oError("A text has half a character in it. Write it again.")
