"""Near-duplicates among the samples of all pieces: a few numbers of each sample are in memory, in arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .decisions import DUPLICATE, Drop
from .near import Columns, duplicates
from .texts import digest

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Array, Table


class Candidates:
    """Samples that may be near-duplicates of each other: images among themselves, or edits."""

    def __init__(self, edits: bool):
        self._edits = edits
        self._chunks: list[tuple[np.ndarray, ...]] = []

    def add(self, piece: int, table: "Table", rows: Sequence[int], stay: Mapping[int, tuple[int, ...]]) -> None:
        """Rows of the features of a piece. `stay`: the texts that are left of those that lost some."""
        import numpy as np

        if not rows:
            return
        taken = np.asarray(rows, np.int32)
        hashes, width, height = (table[name].to_numpy()[taken] for name in ("hash", "width", "height"))
        pixels = (width.astype(np.int64) * height.astype(np.int64)).astype(np.int32)  # the reader of images has a limit
        chunk = [np.full(len(rows), piece, np.int32), taken, hashes.astype(np.uint64), pixels]
        if self._edits:
            references, texts = (table[name].take(taken).to_pylist() for name in ("reference_hashes", "texts"))
            left = [
                tuple(one) if row not in stay else [one[k] for k in stay[row]]
                for row, one in zip(rows, texts, strict=True)
            ]
            chunk.append(np.array([some[0] for some in references], np.uint64))
            chunk.append(np.array([digest("\n".join(one)) for one in left], np.uint64))
        self._chunks.append(tuple(chunk))

    def doubles(self, distance: int, places_of: Callable[[int], "Array"]) -> "Doubles":
        """`places_of` gives the places of all rows of a piece."""
        import numpy as np

        if not self._chunks:
            return Doubles(distance)
        pieces, rows, hashes, pixels, *others = (np.concatenate(one) for one in zip(*self._chunks, strict=True))
        self._chunks.clear()
        instead = duplicates(Columns(hashes, pixels, *others), distance)
        dropped = np.flatnonzero(instead >= 0)
        stays = instead[dropped]
        apart = np.bitwise_count(hashes[dropped] ^ hashes[stays])
        chosen, number = np.unique(stays, return_inverse=True)
        places = _places(pieces[chosen], rows[chosen], places_of)
        return Doubles(distance, pieces[dropped], rows[dropped], apart, places, number)


def _places(pieces: "np.ndarray", rows: "np.ndarray", places_of: Callable[[int], "Array"]) -> "Array | None":
    """The places of rows that are sorted by their pieces."""
    import numpy as np
    import pyarrow as pa

    if not len(pieces):
        return None
    starts = np.flatnonzero(np.diff(pieces, prepend=-1))
    ends = np.append(starts[1:], len(pieces))
    return pa.concat_arrays(
        [
            places_of(int(pieces[first])).take(pa.array(rows[first:last]))
            for first, last in zip(starts, ends, strict=True)
        ]
    )


class Doubles:
    """Near-duplicates that are dropped, sorted by their pieces."""

    def __init__(
        self,
        distance: int,
        pieces: "np.ndarray | None" = None,
        rows: "np.ndarray | None" = None,
        apart: "np.ndarray | None" = None,
        places: "Array | None" = None,
        number: "np.ndarray | None" = None,
    ):
        self._distance = distance
        self._pieces, self._rows, self._apart, self._places, self._number = pieces, rows, apart, places, number

    def of(self, piece: int) -> dict[int, Drop]:
        """Row -> why it is dropped, of a piece."""
        import numpy as np

        if self._pieces is None:
            return {}
        first, last = np.searchsorted(self._pieces, [piece, piece + 1])
        return {
            int(self._rows[k]): Drop(
                DUPLICATE, int(self._apart[k]), self._distance, self._places[self._number[k]].as_py()
            )
            for k in range(first, last)
        }
