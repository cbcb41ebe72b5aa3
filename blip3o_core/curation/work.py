"""The files of a curation, and how it is known whether one of them is still right.

out/shards/             what training reads; a folder for each source where these have weights
out/report.html         for a person
out/dropped.jsonl       every drop with its reason
out/faults.jsonl        what models could not say about a sample
out/work/features/      a table for each piece: what was measured
out/work/decisions/     a table for each piece: what is kept, and why the rest is not
out/work/answers/       for each piece: the texts that a model wrote, as they came
out/work/written/       for each piece: what its shard was made from
out/work/thumbnails/    for each piece: small images for the report
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Blip3oError, shown
from ..files import atomic_write, held, naming_failures, remove_abandoned, write_json
from ..shards.manifest import MANIFEST
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
    def faults(self) -> Path:
        return self.out / "faults.jsonl"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def features(self, piece: str) -> Path:
        return self.out / "work" / "features" / f"{piece}.parquet"

    def decisions(self, piece: str) -> Path:
        return self.out / "work" / "decisions" / f"{piece}.parquet"

    def written(self, piece: str) -> Path:
        return self.out / "work" / "written" / f"{piece}.json"

    def answers(self, piece: str) -> Path:
        """What a model wrote, as it came. It stays when its piece is gone: answers may have cost money."""
        return self.out / "work" / "answers" / f"{piece}.jsonl"

    def thumbnails(self, piece: str) -> Path:
        return self.out / "work" / "thumbnails" / f"{piece}.parquet"

    def make_folders(self) -> None:
        """Raises Blip3oError for a folder that has other things in it: files are replaced and removed here."""
        if not self._mark.is_file() and self.out.is_dir() and any(self.out.iterdir()):
            raise Blip3oError(
                f"out is {shown(self.out)}, a folder with other files in it. Choose a new folder, or the one of an "
                "earlier `blip3o curate`."
            )
        for folder in (self.shards, *(path.parent for path in self._tables("x"))):
            with naming_failures(folder):
                folder.mkdir(parents=True, exist_ok=True)
        if not self._mark.is_file():
            write_json(self._mark, {"format": "blip3o curation", "version": 1})
        for folder in (self.out, *(path.parent for path in self._tables("x")), *_folders(self.shards)):
            remove_abandoned(folder)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else works in this folder while the block runs. Raises Blip3oError where somebody does."""
        with held(
            self._mark,
            f"Another `blip3o curate` works in {shown(self.out)}. Wait until it ends, or choose another `out`.",
        ):
            yield

    def forget_others(self, shards: Mapping[str, Path]) -> None:
        """Remove what was made of pieces that the sources no longer have. `shards`: piece -> its shard."""
        for path in self._tables("x"):
            for file in path.parent.glob(f"*{path.suffix}"):
                if file.stem not in shards:
                    file.unlink(missing_ok=True)
        wanted = {path.with_suffix(ending) for path in shards.values() for ending in (".tar", ".index")}
        wanted |= {path.with_name(MANIFEST) for path in shards.values()}
        for folder in _folders(self.shards):
            for file in folder.iterdir():
                if file not in wanted and (file.suffix in (".tar", ".index") or file.name == MANIFEST):
                    file.unlink(missing_ok=True)

    @property
    def _mark(self) -> Path:
        return self.out / "work" / "curation.json"

    def _tables(self, piece: str) -> tuple[Path, ...]:
        return self.features(piece), self.decisions(piece), self.written(piece), self.thumbnails(piece)


def _folders(shards: Path) -> list[Path]:
    return [shards, *(one for one in shards.iterdir() if one.is_dir())]


def digest(content: Any) -> str:
    """A name for plain values: equal values have equal ones."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def rules_of(settings: CurationSettings, versions: Mapping[str, str]) -> str:
    """What the features of a sample depend on, beside the sample. `versions`: of models."""
    judges = [
        {name: value for name, value in judge.model_dump().items() if name not in ("min", "max", "timeout")}
        for judge in settings.judges
    ]
    captions = settings.captions.model_dump() if settings.captions else None
    return digest([VERSION, judges, captions, dict(versions)])


def measured_from(piece: "Piece", rules: str) -> str:
    """What the features of a piece depend on. `rules`: see `rules_of`."""
    return digest([rules, dataclasses.asdict(piece)])


def write_table(path: Path, tables: Iterable["Table"], schema: "Schema", made_from: str) -> None:
    """Tables, one after the other, as one parquet file, whole or not at all; the same bytes for the same rows."""
    import pyarrow.parquet as pq

    marked = schema.with_metadata({_MARK: made_from.encode("ascii")})
    with naming_failures(path), atomic_write(path) as scratch, pq.ParquetWriter(scratch, marked) as writer:
        for table in tables:
            writer.write_table(table.cast(marked))


def read_table(path: Path, columns: Sequence[str] | None = None) -> "Table":
    """All columns, or these."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=None if columns is None else list(columns), memory_map=False)


def read_column(path: Path, name: str) -> "Array":
    return read_table(path, [name])[name].combine_chunks()


def made_from(path: Path) -> tuple[str, int]:
    """(what the file of a table was made from, its rows); ("", 0) where there is no whole one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return (file.schema_arrow.metadata or {}).get(_MARK, b"").decode("ascii"), file.metadata.num_rows
    except (OSError, pa.ArrowException):
        return "", 0
