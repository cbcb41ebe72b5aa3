"""What an earlier run measured of a piece: rows that still hold, and whether a model is to be asked again."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .models.stage import AGAIN
from .sample import Sample
from .work import made_from, read_column, read_table

if TYPE_CHECKING:
    from pyarrow import Table


def stamp_of(sample: Sample, rules: str) -> bytes:
    """16 bytes that two samples share when their features are the same, whatever their keys. `rules`: see `work`."""
    images = [hashlib.sha256(data).hexdigest() for data in (sample.image, *sample.references)]
    said = json.dumps([rules, images, sample.texts, dict(sample.meta)], sort_keys=True, default=str)
    return hashlib.sha256(said.encode("ascii")).digest()[:16]


class Before:
    """The features in a file, by their stamps; none where there is no whole file of today's form."""

    def __init__(self, path: Path):
        self._table: Table | None = None
        self._places: dict[bytes, int] = {}
        if made_from(path)[0]:
            table = read_table(path).combine_chunks()
            if "stamp" in table.column_names:
                self._table = table
                self._places = {stamp: place for place, stamp in enumerate(table["stamp"].to_pylist()) if stamp}

    def row(self, stamp: bytes) -> dict[str, Any] | None:
        place = self._places.get(stamp)
        return None if place is None or self._table is None else self._table.slice(place, 1).to_pylist()[0]


def asks_again(path: Path) -> bool:
    """Whether a model gave no answer about a sample of this file, for a reason that may have passed."""
    import pyarrow.parquet as pq

    if AGAIN not in pq.read_schema(path).names:
        return False
    return any(read_column(path, AGAIN).to_pylist())
