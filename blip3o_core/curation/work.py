"""The files of a curation, and how it is known whether one of them is still right.

out/shards/             what the trainer reads
out/report.html         for a person
out/dropped.jsonl       every drop with its reason
out/work/features/      a table for each piece: what was measured
out/work/decisions/     a table for each piece: what is kept, and why the rest is not
out/work/written/       for each piece: what its shard was made from
out/work/thumbnails/    for each piece: small images for the report
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Blip3oError, first_line, shown
from ..files import atomic_write, naming_failures, remove_abandoned
from .features import VERSION
from .settings import CurationSettings

if TYPE_CHECKING:
    from pyarrow import Array, Schema, Table

    from .readers.pieces import Piece

_MARK = b"blip3o"  # the key in a table's file of what it was made from


@dataclass(frozen=True)
class Work:
    """Where everything of one curation is."""

    out: Path

    @property
    def shards(self) -> Path:
        return self.out / "shards"

    @property
    def dropped(self) -> Path:
        return self.out / "dropped.jsonl"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def shard(self, piece: str) -> Path:
        return self.shards / f"{piece}.tar"

    def features(self, piece: str) -> Path:
        return self.out / "work" / "features" / f"{piece}.parquet"

    def decisions(self, piece: str) -> Path:
        return self.out / "work" / "decisions" / f"{piece}.parquet"

    def written(self, piece: str) -> Path:
        return self.out / "work" / "written" / f"{piece}.json"

    def thumbnails(self, piece: str) -> Path:
        return self.out / "work" / "thumbnails" / f"{piece}.parquet"

    def make_folders(self) -> None:
        for path in (self.shard("x"), self.features("x"), self.decisions("x"), self.written("x"), self.thumbnails("x")):
            with naming_failures(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent)
        remove_abandoned(self.out)

    def forget_others(self, pieces: Iterable[str]) -> None:
        """Remove what was made of pieces that the sources no longer have."""
        known = set(pieces)
        for path in (self.features("x"), self.decisions("x"), self.written("x"), self.thumbnails("x"), self.shard("x")):
            for file in path.parent.glob(f"*{path.suffix}"):
                if file.stem not in known:
                    file.unlink(missing_ok=True)
        for file in self.shards.glob("*.index"):
            if file.stem not in known:
                file.unlink(missing_ok=True)


def digest(content: Any) -> str:
    """A name for plain values: equal values have equal ones."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def measured_from(piece: "Piece", settings: CurationSettings, state: str) -> str:
    """What the features of a piece depend on. `state`: of its source, see `source_state`."""
    judges = [
        {name: value for name, value in judge.model_dump().items() if name not in ("min", "max", "weight", "timeout")}
        for judge in settings.judges
    ]
    captions = settings.captions.model_dump() if settings.captions else None
    return digest([VERSION, dataclasses.asdict(piece), state, judges, captions])


def source_state(path: Path) -> str:
    """What changes when a file, or a file in a folder, does: sizes and times of change."""
    try:
        facts = path.stat()
        if not path.is_dir():
            return f"{facts.st_size} {facts.st_mtime_ns}"
        seen = hashlib.sha256()
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = Path(folder, name)
                one = file.stat()
                seen.update(f"{file.relative_to(path)}\0{one.st_size} {one.st_mtime_ns}\0".encode(errors="replace"))
        return seen.hexdigest()
    except OSError as error:
        raise Blip3oError(f"{shown(path)} cannot be read: {first_line(error)}. Check the path.") from error


def write_table(path: Path, tables: Iterable["Table"], schema: "Schema", made_from: str) -> None:
    """Tables, one after the other, as one parquet file, whole or not at all; the same bytes for the same rows."""
    import pyarrow.parquet as pq

    marked = schema.with_metadata({_MARK: made_from.encode("ascii")})
    with naming_failures(path), atomic_write(path) as scratch, pq.ParquetWriter(scratch, marked) as writer:
        for table in tables:
            writer.write_table(table.cast(marked))


def read_table(path: Path) -> "Table":
    import pyarrow.parquet as pq

    return pq.read_table(path, memory_map=False)


def read_column(path: Path, name: str) -> "Array":
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=[name], memory_map=False)[name].combine_chunks()


def made_from(path: Path) -> tuple[str, int]:
    """(what the file of a table was made from, its rows); ("", 0) where there is no whole one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return (file.schema_arrow.metadata or {}).get(_MARK, b"").decode("ascii"), file.metadata.num_rows
    except (OSError, pa.ArrowException):
        return "", 0
