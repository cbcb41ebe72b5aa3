"""A curation from start to end: pieces, three passes over them, the manifest and the report.

Every pass writes one file for each piece, under its name only when it is whole. What a file was made from stands in it,
so a run that was stopped continues where it was, and a run with other settings does again only what they touch.
"""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import Blip3oError, shown
from ..shards.layout import ShardFacts
from ..shards.manifest import MANIFEST, write_manifest
from .faults import write_faults
from .measure import is_measured, measure
from .models.stage import model_versions
from .report import write_report
from .select import Selection, select
from .settings import CurationSettings, SourceSettings
from .work import Work, rules_of
from .write import Order, is_written, write

if TYPE_CHECKING:
    from .readers.pieces import Piece


class Backend(Protocol):
    """Calls a function for every task -> (number of the task, what it returns), in any order."""

    def __call__(self, function: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[tuple[int, Any]]: ...


@dataclass(frozen=True)
class Watch:
    """How a curation is followed."""

    tell: Callable[[str], None] = lambda line: None
    progress: Callable[[str, int, int], None] = lambda what, done, total: None


@dataclass(frozen=True)
class Outcome:
    """What a curation gave."""

    work: Work
    reasons: Counter  # reason, or kept -> samples
    data: tuple[tuple[Path, float | None], ...]  # what training reads, with its weight
    unchanged: int  # samples that were also written as reconstructions

    def data_lines(self) -> list[str]:
        """The lines of a training's settings that name what was written."""
        return ["data:", *(f"  - {_line(path, weight)}" for path, weight in self.data)]


def _line(path: Path, weight: float | None) -> str:
    name = json.dumps(str(path))
    return name if weight is None else f"{{path: {name}, weight: {weight:g}}}"


@dataclass(frozen=True)
class Part:
    """A piece with what the passes must know of it."""

    piece: "Piece"
    source: str
    rules: str  # what its features depend on beside itself
    folder: Path  # of its shard

    @property
    def shard(self) -> Path:
        return self.folder / f"{self.piece.name}.tar"


def curate(settings: CurationSettings, watch: Watch = Watch()) -> Outcome:
    """Do what is left to do. Raises Blip3oError, with all that is finished kept."""
    work = Work(Path(settings.out))
    parts = find_parts(settings)
    work.make_folders()
    with work.held(), _backend(settings) as how:
        work.forget_others({part.piece.name: part.shard for part in parts})
        _measure(parts, settings, how, watch)
        faults = write_faults(work, settings, [part.piece.name for part in parts], watch.tell)
        selection = _select(parts, settings, watch)
        shards = _write(parts, settings, selection, how, watch)
        write_report(work, settings, {part.piece.name: part.source for part in parts}, selection, faults)
    totals = sum(selection.reasons.values(), Counter())
    weights = {part.folder: weight for part, weight in _weights(parts, settings)}
    data = tuple((folder, weights[folder]) for folder, some in shards.items() if some)
    return Outcome(work, totals, data, selection.unchanged)


def find_parts(settings: CurationSettings) -> list[Part]:
    """All pieces of all sources, in their order, each with a name of its own."""
    from .readers.find import find_pieces
    from .readers.pieces import safe_name

    parts, taken, rules = list[Part](), set[str](), rules_of(settings, model_versions(settings))
    shards = Work(Path(settings.out)).shards
    for source, name in zip(settings.sources, source_names(settings.sources), strict=True):
        for piece in find_pieces(source.path, source.options):
            own = f"{name}-{piece.name}"
            own = safe_name(f"{piece.name} of {name}") if own in taken else own  # a-b of x, and b of x-a
            taken.add(own)
            folder = shards / name if source.weight else shards
            parts.append(Part(dataclasses.replace(piece, name=own), name, rules, folder))
    if not parts:
        raise Blip3oError("The sources have nothing to read. Check the paths in `sources`.")
    return parts


def _weights(parts: Sequence[Part], settings: CurationSettings) -> Iterator[tuple[Part, float | None]]:
    weights = dict(zip(source_names(settings.sources), (source.weight for source in settings.sources), strict=True))
    for part in parts:
        yield part, weights[part.source]


def source_names(sources: Sequence[SourceSettings]) -> list[str]:
    """A name for each source: its own, or its path's last part, with a number where two would be the same."""
    from .readers.pieces import safe_name

    names: list[str] = []
    taken = {source.name for source in sources if source.name}
    for source in sources:
        name = source.name
        if name is None:
            stem = name = safe_name(Path(source.path).resolve().stem or "source")
            number = 1
            while name in taken:
                number += 1
                name = f"{stem}-{number}"
            taken.add(name)
        names.append(name)
    return names


@contextlib.contextmanager
def _backend(settings: CurationSettings) -> Iterator[Backend]:
    """What runs the passes while the block does."""
    from .backends import local

    if settings.backend == "ray":
        from .backends import cluster

        with cluster.connected(local.processes(settings.workers)) as ray:
            yield partial(ray.run, workers=settings.workers)
    else:
        yield partial(local.run, workers=local.processes(settings.workers))


def _measure(parts: Sequence[Part], settings: CurationSettings, how: Backend, watch: Watch) -> None:
    work = Work(Path(settings.out))
    left = [part for part in parts if not is_measured(work, part.piece, part.rules)]
    if len(left) < len(parts):
        watch.tell(f"measured before: {len(parts) - len(left)} of {len(parts)} pieces")
    tasks = [(part.piece, settings, part.rules) for part in left]
    for done, _ in enumerate(how(measure, tasks), 1):
        watch.progress("measure", done, len(tasks))


def _select(parts: Sequence[Part], settings: CurationSettings, watch: Watch) -> Selection:
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        watch.progress("select", done, 2 * len(parts))

    return select({part.piece.name: part.source for part in parts}, settings, told)


def _write(
    parts: Sequence[Part], settings: CurationSettings, selection: Selection, how: Backend, watch: Watch
) -> dict[Path, list[ShardFacts]]:
    shown_keys: dict[str, list[str]] = {}
    for row in selection.shown:
        if row.key is not None:
            shown_keys.setdefault(row.piece, []).append(row.key)
    work, orders = Work(Path(settings.out)), []
    for part in parts:
        name = part.piece.name
        orders.append(Order(part.source, part.shard, selection.wanted[name], tuple(shown_keys.get(name, ()))))
        if is_written(work, name, orders[-1]) is None:
            # Nobody takes shards of which some are old and some are new for a whole folder.
            (part.folder / MANIFEST).unlink(missing_ok=True)
    tasks = [(part.piece, settings, order) for part, order in zip(parts, orders, strict=True)]
    found: dict[int, Any] = {}
    for number, facts in how(write, tasks):
        found[number] = facts
        watch.progress("write", len(found), len(tasks))
    shards: dict[Path, list[ShardFacts]] = {part.folder: [] for part in parts}
    for number, facts in sorted(found.items()):
        if facts is not None:
            shards[parts[number].folder].append(facts)
    for folder, some in shards.items():
        folder.mkdir(exist_ok=True)
        write_manifest(folder, some)
        if not some:
            watch.tell(f"warning: nothing was kept for {shown(folder)}; {shown(work.report)} says why")
    return shards
