"""The files of a folder and of the folders in it, always in the same order."""

import os
from collections.abc import Iterator
from pathlib import Path

from .naming import is_hidden


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of its files), the files of a folder before the folders in it, both sorted by name.

    Links are followed, and a folder that two names lead to is read under the first. A folder that cannot be listed
    has no files.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            facts = current.stat()
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError:
            continue
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        entries = [entry for entry in entries if not is_hidden(entry.name)]
        yield current, [entry.name for entry in entries if not entry.is_dir()]
        waiting += [current / entry.name for entry in reversed(entries) if entry.is_dir()]
