"""Where the bytes of one training image are: a file of its own, or a part of a shard."""

from dataclasses import dataclass
from pathlib import Path

from ...errors import Blip3oError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


@dataclass(frozen=True)
class ImageSource:
    file: Path
    name: str  # for messages
    offset: int | None = None  # inside a shard, in bytes
    size: int = 0

    def read(self) -> bytes:
        try:
            if self.offset is None:
                return self.file.read_bytes()
            with open(self.file, "rb") as shard:
                shard.seek(self.offset)
                return shard.read(self.size)
        except OSError as error:
            raise Blip3oError(f"Cannot read {self.name}: {error}. Restore it, or remove it from the data.") from error
