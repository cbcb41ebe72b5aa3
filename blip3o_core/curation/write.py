"""Pass 3: what is kept of a piece -> its shard, and small images of samples for the report."""

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Blip3oError, shown
from ..files import read_optional_json, write_json
from ..images.reader import read_image
from ..shards.write import Record, ShardFacts, write_shard
from .sample import Sample
from .settings import CurationSettings
from .work import Work, made_from, read_table, write_table

if TYPE_CHECKING:
    from .readers.pieces import Piece

UNCHANGED = "Keep the image unchanged."  # the authors' instruction of a reconstruction
_THUMBNAIL = 160  # pixels


@dataclasses.dataclass(frozen=True)
class Order:
    """What pass 3 makes of a piece."""

    source: str  # its name
    shard: Path
    wanted: str  # what the shard depends on
    shown: tuple[str, ...]  # the keys of samples to make small images of


def write(piece: "Piece", settings: CurationSettings, order: Order) -> ShardFacts | None:
    """Write the shard of a piece and its small images, unless they are there -> its facts; None: nothing is kept."""
    work = Work(Path(settings.out))
    done = is_written(work, piece.name, order)
    thumbnails = work.thumbnails(piece.name)
    shown = "\n".join([order.wanted, *order.shown]).encode("ascii", "backslashreplace").hex()
    if done is not None and made_from(thumbnails)[0] == shown:
        return done[0]
    kept = {row["key"]: row for row in read_table(work.decisions(piece.name)).to_pylist()}
    samples = _Samples(piece, set(order.shown))
    if done is None:
        facts = _write_shard(work, piece.name, samples, kept, order)
    else:
        facts = done[0]
        samples.read_all()
    write_table(thumbnails, [samples.thumbnails()], _schema(), shown)
    return facts


def is_written(work: Work, name: str, order: Order) -> tuple[ShardFacts | None] | None:
    """(the facts of the shard that is there and right); None where it must be written."""
    note = read_optional_json(work.written(name), "Remove it and run the same command again.")
    if note.get("wanted") != order.wanted:
        return None
    if note["shard"] is None:
        return (None,)
    facts, tar = ShardFacts(**note["shard"]), order.shard
    whole = tar.is_file() and tar.stat().st_size == facts.bytes and tar.with_suffix(".index").is_file()
    return (facts,) if whole else None


def _write_shard(
    work: Work, name: str, samples: "_Samples", kept: Mapping[str, Mapping[str, Any]], order: Order
) -> ShardFacts | None:
    """The shard under its name, then the note of what it was made from."""
    tar = order.shard
    if kept:
        texts = {key: _texts(row, kept[key]) for key, row in _features(work, name, kept)}
        facts = write_shard(tar, _records(samples, kept, texts, order.source))
    else:
        facts = None
        samples.read_all()
        for path in (tar, tar.with_suffix(".index")):
            path.unlink(missing_ok=True)
    write_json(work.written(name), {"wanted": order.wanted, "shard": facts and dataclasses.asdict(facts)})
    return facts


def _features(work: Work, name: str, kept: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in read_table(work.features(name)).select(["key", "texts", "width", "height"]).to_pylist():
        if row["key"] in kept:
            yield row["key"], row


def _texts(row: Mapping[str, Any], kept: Mapping[str, Any]) -> tuple[str, ...]:
    texts = tuple(row["texts"] or ())
    return texts if kept["stay"] is None else tuple(texts[k] for k in kept["stay"])


def _records(
    samples: "_Samples", kept: Mapping[str, Mapping[str, Any]], texts: Mapping[str, Sequence[str]], source: str
) -> Iterator[Record]:
    left = set(kept)
    for sample in samples:
        if sample.key not in left:
            continue
        left.discard(sample.key)
        meta = {name: value for name, value in sample.meta.items() if _is_json([name, value])}
        facts = {"source": source, **({"meta": meta} if meta else {})}
        yield Record(sample.key, sample.image, sample.references, tuple(texts[sample.key]), facts)
        if kept[sample.key]["unchanged"]:
            key = _new_key(f"{sample.key}-unchanged", kept)
            yield Record(key, sample.image, (sample.image,), (UNCHANGED,), {"source": source})
    if left:
        raise Blip3oError(
            f"{shown(samples.path)} has changed while it was read: the sample {shown(min(left))} is gone. Run the same "
            "command again."
        )


def _is_json(value: Any) -> bool:
    """Whether JSON holds a value: a number that is none, or half a character, is left out of the facts."""
    try:
        return bool(json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8"))
    except (TypeError, ValueError):
        return False


def _new_key(key: str, taken: Mapping[str, Any]) -> str:
    while key in taken:
        key += "-"
    return key


class _Samples:
    """The samples of a piece, read once; on the way, small images of some."""

    def __init__(self, piece: "Piece", wanted: set[str]):
        self.path, self._piece, self._wanted = piece.path, piece, wanted
        self._found: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[Sample]:
        from .readers.find import read

        seen: set[str] = set()
        for sample in read(self._piece):
            if isinstance(sample, Sample) and sample.key not in seen:
                seen.add(sample.key)
                if sample.key in self._wanted:
                    self._found[sample.key] = thumbnail(sample)
                yield sample

    def read_all(self) -> None:
        """For the small images alone."""
        if self._wanted:
            for _ in self:
                if len(self._found) == len(self._wanted):
                    break

    def thumbnails(self) -> Any:
        import pyarrow as pa

        rows = [{"key": key, "image": data} for key, data in sorted(self._found.items())]
        return pa.Table.from_pylist(rows, _schema())


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([pa.field("key", pa.string()), pa.field("image", pa.binary())])


def thumbnail(sample: Sample) -> bytes:
    """A small JPEG of a sample: its references, then the target; nothing where none can be read."""
    from PIL import Image

    parts = []
    for data in (*sample.references[:3], sample.image):
        try:
            image = read_image(data, sample.place, least_side=_THUMBNAIL).on_white()
        except Blip3oError:
            continue
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        parts.append(image)
    if not parts:
        return b""
    wide = sum(one.width for one in parts) + 4 * (len(parts) - 1)
    row, left = Image.new("RGB", (wide, max(one.height for one in parts)), "white"), 0
    for one in parts:
        row.paste(one, (left, 0))
        left += one.width + 4
    stream = io.BytesIO()
    row.save(stream, "JPEG", quality=80)
    return stream.getvalue()
