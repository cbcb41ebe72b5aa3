"""Files that appear whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yields a path beside `path` to write a file to; it becomes `path` when the block ends without an error.

    On an error `path` is as it was and nothing is left beside it. Several processes may write the same `path`: the last
    one wins. `durable`: the file is on the disk itself before it gets its name, for what must survive a power cut.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        if durable:
            sync(scratch)
        os.replace(scratch, path)
        if durable:
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """`content` as an indented JSON file, whole or not at all."""
    with atomic_write(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, where the system can: Windows opens no folders, some shares sync none."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
