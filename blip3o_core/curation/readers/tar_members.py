"""The members of a tar one after the other, past damage: what cannot be read is a gap, and the rest is read."""

import gzip
import io
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...errors import Blip3oError, first_line, shown

_BLOCK = tarfile.BLOCKSIZE
_HEADER_LIMIT = 2**20  # bytes of a long name or of a header with more of them
_CHUNK = 2**20
_GROWTH, _SLACK = 100, 2**30  # a .tar.gz may unpack to so many times its size, and some bytes more
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}


class Gap(NamedTuple):
    """Bytes of a tar that are not members."""

    start: int
    end: int


@dataclass(frozen=True)
class Opened:
    """A tar to read at any place. `cut`: why it ends before its end, where the unpacking already found out."""

    stream: BinaryIO
    size: int
    cut: str = ""


class _Headers:
    """A file as tarfile sees it: no header may ask for gigabytes."""

    def __init__(self, stream: BinaryIO):
        self.tell, self.seek, self._read = stream.tell, stream.seek, stream.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._read(size)


def members_of(opened: Opened) -> Iterator[tarfile.TarInfo | Gap]:
    """All members, and the gaps between them. The last is Gap(size, size) when the tar just ends, without an end mark.

    A member may say that it has more bytes than the file: then it is the last.
    """
    stream, size = opened.stream, opened.size
    # tarfile reads one header at a time here, because its own loop passes over damage without a word.
    archive = tarfile.TarFile(fileobj=io.BytesIO(bytes(2 * _BLOCK)))
    archive.fileobj = _Headers(stream)  # type: ignore[assignment]
    at, damage, ended = 0, -1, False
    while at < size:
        stream.seek(at)
        block = stream.read(_BLOCK)
        if not block.strip(b"\0") and damage < 0:
            ended, at = ended or len(block) == _BLOCK, at + _BLOCK
            continue
        member = _member(archive, at)
        if member is None:
            damage, at = at if damage < 0 else damage, at + _BLOCK
            continue
        if damage >= 0:
            yield Gap(damage, at)
        damage, ended, at = -1, False, archive.offset
        yield member
    if damage >= 0:
        yield Gap(damage, size)
    elif not ended:
        yield Gap(size, size)


def _member(archive: tarfile.TarFile, at: int) -> tarfile.TarInfo | None:
    """The member whose header begins at a byte; None if none does."""
    archive.offset = at
    archive.fileobj.seek(at)  # type: ignore[union-attr]
    try:
        member = tarfile.TarInfo.fromtarfile(archive)
    except Exception:  # tarfile meets whatever a damaged header makes of its numbers
        return None
    return member if member.size >= 0 and archive.offset > at else None


def packing_of(stream: BinaryIO) -> str:
    """What a file is packed with, by its first bytes: "gzip", "zip" and so on, or nothing."""
    stream.seek(0)
    head = stream.read(8)
    return next((name for mark, name in _PACKED.items() if head.startswith(mark)), "")


def open_tar(stream: BinaryIO) -> Opened:
    """A tar in place, or as much of a .tar.gz as can be unpacked, in a file without a name.

    Raises Blip3oError only when there is no room for that: everything else is about the tar, and is reported with it.
    """
    packed = packing_of(stream) == "gzip"
    size = stream.seek(0, 2)
    stream.seek(0)
    return _unpacked(stream, _GROWTH * size + _SLACK) if packed else Opened(stream, size)


def _unpacked(packed: BinaryIO, limit: int) -> Opened:
    spool = tempfile.TemporaryFile()
    cut = ""
    with gzip.GzipFile(fileobj=packed) as source:
        while True:
            try:
                # Small reads give what stands before the damage.
                chunk = source.read1(_CHUNK)
            except (EOFError, OSError, zlib.error) as error:
                cut = f"its compressed data is damaged or cut short ({first_line(error)})"
                break
            if not chunk:
                break
            if spool.tell() + len(chunk) > limit:
                cut = f"it unpacks to more than {limit:,} bytes"
                break
            try:
                spool.write(chunk)
            except OSError as error:
                spool.close()
                raise Blip3oError(
                    f"A .tar.gz cannot be unpacked to {shown(Path(tempfile.gettempdir()))}: {first_line(error)}. Free "
                    "some space there, or set TMPDIR to a folder on a larger disk."
                ) from error
    return Opened(spool, spool.tell(), cut)  # type: ignore[arg-type]
