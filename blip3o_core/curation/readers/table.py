"""Samples from a parquet file: a row is one. Images are bytes, {bytes, path} as `datasets` writes them, or paths."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...errors import Blip3oError, first_line
from ...files import open_regular
from ..sample import Broken, Sample
from .columns import Columns, choose
from .groups import reason_of
from .options import Options
from .pieces import Piece
from .rows import Rows
from .source_files import REMEDY, Watched, read_file

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PIECE_ROWS = 1000  # from which a piece ends with its row group
_AT_ONCE = 8  # rows


def table_pieces(path: Path, name: str, options: Options) -> Iterator[Piece]:
    """Pieces of whole row groups. A file that cannot be opened is one piece: it is reported when it is read."""
    bounds, watched = [0], [Watched(path)]
    try:
        with open_regular(path, REMEDY) as stream:
            table, count = _open(stream), 0
            for number in range(table.num_row_groups - 1):
                count += table.metadata.row_group(number).num_rows
                if count >= PIECE_ROWS:
                    bounds.append(number + 1)
                    watched.append(Watched(path))
                    count = 0
            for one, first, last in zip(watched, bounds, [*bounds[1:], table.num_row_groups], strict=True):
                _watch(one, table, range(first, last), _rows(path, options))
    except (Blip3oError, OSError, ValueError):
        pass
    for number, (first, last) in enumerate(zip(bounds, [*bounds[1:], None], strict=True)):
        several = f"{name}-{number:05d}" if len(bounds) > 1 else name
        state = watched[number].state()
        yield Piece(several, "parquet", str(path), first, last, options=options.values(), state=state)


def _watch(watched: Watched, table: "ParquetFile", groups: range, rows: Rows) -> None:
    """Watch the images that row groups name by their paths."""
    columns = choose(table.schema_arrow.names, rows.options)
    names = [name for name in (columns.image, *columns.references) if _has_paths(table.schema_arrow.field(name).type)]
    if not names:
        return
    for batch in table.iter_batches(PIECE_ROWS, row_groups=list(groups), columns=names, use_threads=False):
        for name in names:
            for value in batch.column(name).to_pylist():
                for file in rows.files_of(value):
                    watched.add(file)


def _has_paths(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return _has_paths(kind.value_type)
    return kinds.is_string(kind) or kinds.is_large_string(kind)


def _rows(path: Path, options: Options) -> Rows:
    return Rows(Path(options.images or path.parent), options)


def read_table(piece: Piece) -> Iterator[Sample | Broken]:
    yield from read_file(piece, lambda stream, place: _samples(stream, place, piece))


def _samples(stream: BinaryIO, path: str, piece: Piece) -> Iterator[Sample | Broken]:
    options = Options.of(piece.options)
    try:
        table = _open(stream)
        columns = choose(table.schema_arrow.names, options)
    except (Blip3oError, OSError, ValueError) as error:
        yield Broken(path, _reason(error))
        return
    rows = _rows(Path(piece.path), options)
    last = table.num_row_groups if piece.last is None else piece.last
    before = sum(table.metadata.row_group(number).num_rows for number in range(piece.first))
    for group in range(piece.first, last):
        end = before + table.metadata.row_group(group).num_rows
        yield from _group(table, group, _needed(table, columns), rows, (path, before, end))
        before = end


def _open(stream: Any) -> "ParquetFile":
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise Blip3oError(
            f"Reading parquet files needs another package: {error}. Install it with pip install -e '.[curate]' in the "
            "folder of this project."
        ) from error
    return pyarrow.parquet.ParquetFile(stream, pre_buffer=False)


def _needed(table: "ParquetFile", columns: Columns) -> list[str]:
    """What a sample is made of, and columns of numbers and texts, which are facts."""
    import pyarrow.types as kinds

    wanted = {columns.image, *columns.references, *columns.texts}
    for field in table.schema_arrow:
        kind = field.type
        if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_boolean(kind) or kinds.is_floating(kind):
            wanted.add(field.name)
        elif kinds.is_integer(kind):
            wanted.add(field.name)
    return [name for name in table.schema_arrow.names if name in wanted]


def _group(
    table: "ParquetFile", group: int, names: list[str], rows: Rows, where: tuple[str, int, int]
) -> Iterator[Sample | Broken]:
    """The rows of one row group. Damage ends it, and costs no other."""
    path, number, end = where
    try:
        for batch in table.iter_batches(_AT_ONCE, row_groups=[group], columns=names, use_threads=False):
            for position in range(batch.num_rows):
                row = {name: batch.column(name)[position].as_py() for name in names}
                yield rows.sample(row, f"{number:08d}", f"{path}, row {number}")
                number += 1
    except (OSError, ValueError) as error:
        yield Broken(f"{path}, rows {number} to {end - 1}", _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, Blip3oError):
        return reason_of(error, "")
    return f"It cannot be read as a parquet file: {first_line(error)}. {REMEDY}"
