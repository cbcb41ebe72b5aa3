"""Where the bytes of one training image are: a file of its own, or a part of a shard."""

from dataclasses import dataclass
from pathlib import Path

from ...errors import Blip3oError, first_line
from ...files import open_regular
from ...images.reader import MAX_BYTES, image_bytes

REMEDY = "Restore it, or remove it from the data."

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


@dataclass(frozen=True)
class ImageSource:
    file: Path
    name: str  # for messages
    offset: int | None = None  # inside a shard, in bytes
    size: int = 0

    def read(self) -> bytes:
        if self.offset is None:
            return image_bytes(self.file, REMEDY)
        if self.size > MAX_BYTES:
            raise Blip3oError(f"{self.name} has {self.size:,} bytes; an image may have {MAX_BYTES:,}. {REMEDY}")
        with open_regular(self.file, REMEDY) as shard:
            try:
                shard.seek(self.offset)
                data = shard.read(self.size)
            except OSError as error:
                raise Blip3oError(f"{self.name} cannot be read: {first_line(error)}. {REMEDY}") from error
        if len(data) < self.size:
            raise Blip3oError(f"{self.name} is cut short: {self.file} has changed since the run began. {REMEDY}")
        return data
