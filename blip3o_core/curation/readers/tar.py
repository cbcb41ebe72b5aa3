"""Samples from a webdataset-style tar, in one pass: whatever can be read of it is read, and the rest is reported.

- Members whose names are equal up to their last dot are one sample, see `shards/naming.py`. They may stand in any
  order, at most `NEIGHBOURHOOD` other members apart: so much is remembered, by name and place, not by content.
- What stands before a cut is kept. The sample at the cut is kept if it has all that the others of the tar have.
- A name that comes again beyond the neighbourhood, as in tars that were joined, is a sample of its own.
- Links are followed inside the tar, never out of it.
"""

import posixpath
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import Blip3oError, first_line, shown
from ...shards.naming import is_hidden
from ..sample import Broken, Sample
from .groups import Group
from .options import Options
from .pieces import Piece, safe_name
from .source_files import read_file
from .tar_members import Gap, Opened, members_of, open_tar, packing_of

NEIGHBOURHOOD = 256  # members of other samples between those of one
_REMEMBERED = 100_000  # names that a link may lead to
_MOST_HOPS = 16  # of links that lead to links


def read_tar(piece: Piece) -> Iterator[Sample | Broken]:
    yield from read_file(piece, lambda stream, _: _samples(stream, piece))


def _samples(stream: BinaryIO, piece: Piece) -> Iterator[Sample | Broken]:
    packing = packing_of(stream)
    if packing not in ("", "gzip"):
        yield Broken(piece.path, f"It is packed with {packing}. Unpack it: plain .tar and .tar.gz can be read.")
        return
    opened = open_tar(stream)
    with opened.stream:
        yield from _Tar(piece.path, opened, Options.of(piece.options)).samples()


@dataclass(frozen=True)
class _Member:
    name: str
    tar: "_Tar"
    offset: int  # -1: it is a link
    size: int
    fault: str = ""  # why it cannot be read

    @property
    def place(self) -> str:
        return f"{self.tar.path}:{shown(self.name)}"

    def read(self, limit: int) -> bytes:
        if self.fault:
            raise Blip3oError(self.fault)
        offset, size = self.tar.follow(self.name) if self.offset < 0 else (self.offset, self.size)
        if size > limit:
            raise Blip3oError(f"it has {size:,} bytes; at most {limit:,} make sense here.")
        stream = self.tar.opened.stream
        try:
            stream.seek(offset)
            data = stream.read(size)
        except OSError as error:
            raise Blip3oError(f"it cannot be read: {first_line(error)}.") from error
        if len(data) < size:
            raise Blip3oError("it is cut short: the tar has changed while it was read.")
        return data


class _Tar:
    """One reading of one tar."""

    def __init__(self, path: str, opened: Opened, options: Options):
        self.path, self.opened, self.options = shown(path, 4096), opened, options
        self._open: OrderedDict[str, Group] = OrderedDict()  # by stem; the one that was found last is at the end
        self._found: dict[str, int] = {}  # stem -> the number of its last member
        self._doubts: dict[str, str] = {}  # stem -> why something of it may be missing
        self._closed: dict[int, bool] = {}  # the hash of a stem -> whether it had an image
        self._places: OrderedDict[str, tuple[int, int] | str] = (
            OrderedDict()
        )  # name -> (offset, size), or a link's target
        self._count = 0  # members
        self._last = ""  # the stem of the last member
        self._texts, self._most_references = False, 0  # what samples of this tar have
        self._end = ""  # how the tar ends, if not well
        self._after_gap = ""

    def samples(self) -> Iterator[Sample | Broken]:
        said = False  # how it ends
        for result in self._results():
            said = said or bool(self._end and isinstance(result, Broken) and result.reason.startswith(self._end))
            yield result
        if self._end and not said:
            yield Broken(self.path, self._end)
        elif not self._count:
            yield Broken(self.path, "It contains no files.")

    def _results(self) -> Iterator[Sample | Broken]:
        for found in members_of(self.opened):
            if isinstance(found, Gap):
                yield from self._gap(found)
            elif (member := self._member(found)) is not None:
                yield from self._add(member)
                yield from self._close_before(self._count - NEIGHBOURHOOD)
        yield from self._close_before(self._count + 1)

    def _gap(self, gap: Gap) -> Iterator[Broken]:
        if gap.end == self.opened.size:
            self._end = self._end or self._how_it_ends(gap)
            reason = self._end
        else:
            reason = f"Bytes {gap.start:,} to {gap.end:,} cannot be read as members: the tar is damaged there."
            yield Broken(self.path, reason)
            self._after_gap = reason
        if self._last in self._open:
            self._doubts[self._last] = reason

    def _how_it_ends(self, gap: Gap) -> str:
        size, why = self.opened.size, f" ({self.opened.cut})" * bool(self.opened.cut)
        if not size and not why:
            return "It is empty. Copy it again from where it came from."
        if gap.start == 0 < size and not self._count:
            return f"It cannot be read as a tar{why}. Copy it again from where it came from."
        if size - gap.start >= tarfile.BLOCKSIZE:
            return f"The tar ends at byte {size:,} and cannot be read from byte {gap.start:,} on: it is damaged{why}."
        return f"The tar ends at byte {size:,} without an end mark, perhaps cut short{why}."

    def _member(self, info: tarfile.TarInfo) -> _Member | None:
        """None for folders and for what systems add."""
        name = posixpath.normpath(info.name)
        if info.isdir() or is_hidden(name):
            return None
        offset, fault = info.offset_data, ""
        if info.issym() or info.islnk():
            base = posixpath.dirname(name) if info.issym() else ""
            offset = -1
            self._remember(name, posixpath.normpath(posixpath.join(base, info.linkname)))
        elif not info.isreg():
            fault = "it is a device or a pipe."
        elif info.sparse is not None:
            fault = "it is a sparse file, which cannot be read in place. Pack it without --sparse."
        elif offset + info.size > self.opened.size:
            fault = self._end = self._how_it_ends(Gap(self.opened.size, self.opened.size))
        else:
            self._remember(name, (offset, info.size))
        return _Member(name, self, offset, info.size, fault)

    def _remember(self, name: str, place: tuple[int, int] | str) -> None:
        self._places[name] = place
        if len(self._places) > _REMEMBERED:
            self._places.popitem(last=False)

    def follow(self, name: str) -> tuple[int, int]:
        """(offset, size) of what a link leads to."""
        place: tuple[int, int] | str | None = name
        for _ in range(_MOST_HOPS):
            if not isinstance(place, str):
                break
            place = self._places.get(place)
        if not isinstance(place, tuple):
            raise Blip3oError("it is a link to what is not in the tar.")
        return place

    def _add(self, member: _Member) -> Iterator[Broken]:
        self._count += 1
        stem = self._last = Group.stem_of(member.name)
        group = self._open.setdefault(stem, Group(stem))
        self._open.move_to_end(stem)
        self._found[stem] = self._count
        if self._after_gap:
            self._doubts.setdefault(stem, self._after_gap)
            self._after_gap = ""
        if reason := group.add(member):
            yield Broken(member.place, reason)
        self._texts = self._texts or bool(group.texts)
        self._most_references = max(self._most_references, len(group.references))

    def _close_before(self, number: int) -> Iterator[Sample | Broken]:
        """The samples of which no member was found since member `number`."""
        while self._open:
            stem, group = next(iter(self._open.items()))
            if self._found[stem] >= number:
                return
            self._forget(stem)
            whole = next((other for other in self._open.values() if group.belongs_to(other)), None)
            if whole is not None:
                whole.absorb(group)
                continue
            for other in [other for other in self._open.values() if other.belongs_to(group)]:
                group.absorb(other)
                self._forget(other.stem)
            yield self._close(group)

    def _forget(self, stem: str) -> None:
        del self._open[stem], self._found[stem]

    def _close(self, group: Group) -> Sample | Broken:
        doubt = self._doubts.pop(group.stem, "")
        seen = self._closed.get(hash(group.stem))
        alone = not self._closed  # nothing tells what a sample of this tar has
        self._closed[hash(group.stem)] = bool(group.images)
        incomplete = not group.texts and (self._texts or alone) or len(group.references) < self._most_references
        far = f"stands more than {NEIGHBOURHOOD} members before. Pack the tar again, sorted by name."
        if seen and not group.images:
            self._closed[hash(group.stem)] = True
            return Broken(group.place, f"The image of that name {far}")
        if seen is False and group.is_bare:
            return Broken(group.place, f"The text or reference of that name {far}")
        if doubt and group.images and incomplete:
            return Broken(group.place, f"{doubt} What belongs to this image may be missing.")
        again = "" if not seen else f"\0{self._count}"
        return group.sample(safe_name(group.stem + again), self.options)
