"""Where the bytes of one training image are: a file of its own, or a part of a shard."""

from dataclasses import dataclass
from pathlib import Path

from ...errors import Blip3oError, first_line
from ...files import open_regular
from ...images.reader import MAX_BYTES, image_bytes

REMEDY = "Restore it, or remove it from the data."


@dataclass(frozen=True)
class HeldImage:
    """An image whose bytes are here already."""

    name: str  # for messages
    data: bytes
    number: int | None = None  # none: nothing of it is remembered

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class ImageSource:
    file: Path
    name: str  # for messages
    offset: int | None = None  # inside a shard, in bytes
    size: int = 0
    number: int | None = None  # among all images of a run

    def read(self) -> bytes:
        """All bytes of the image."""
        if self.offset is None:
            return image_bytes(self.file, REMEDY)
        return self._read_part(self.offset, self.size)

    def ends(self, length: int) -> tuple[int, bytes, bytes]:
        """(size, the first `length` bytes, the last ones): enough to know the image again and whether it is whole."""
        try:
            with open_regular(self.file, REMEDY, MAX_BYTES if self.offset is None else None) as file:
                start, size = self.offset or 0, file.seek(0, 2) if self.offset is None else self.size
                file.seek(start)
                head = file.read(min(length, size))
                file.seek(start + max(0, size - length))
                return size, head, file.read(min(length, size))
        except OSError as error:
            raise Blip3oError(f"{self.name} cannot be read: {first_line(error)}. {REMEDY}") from error

    def _read_part(self, offset: int, size: int) -> bytes:
        if size > MAX_BYTES:
            raise Blip3oError(f"{self.name} has {size:,} bytes; an image may have {MAX_BYTES:,}. {REMEDY}")
        with open_regular(self.file, REMEDY) as shard:
            try:
                shard.seek(offset)
                data = shard.read(size)
            except OSError as error:
                raise Blip3oError(f"{self.name} cannot be read: {first_line(error)}. {REMEDY}") from error
        if len(data) < size:
            raise Blip3oError(f"{self.name} is cut short: {self.file} has changed since the run began. {REMEDY}")
        return data
