"""The files of a folder and of the folders in it, always in the same order."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...errors import first_line
from ...shards.naming import is_hidden


class Folder(NamedTuple):
    path: Path
    files: list[str]  # their names, sorted
    fault: str = ""  # why it cannot be listed


def walk(folder: Path) -> Iterator[Folder]:
    """A folder before those in it, sorted by name.

    Links are followed, and a folder that several links lead to is read once, under the first.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            facts = current.stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(current) as found:
                entries = sorted((one for one in found if not is_hidden(one.name)), key=lambda one: one.name)
        except OSError as error:
            yield Folder(current, [], first_line(error))
            continue
        inner = {one.name for one in entries if _is_folder(one)}
        yield Folder(current, [one.name for one in entries if one.name not in inner])
        waiting += [current / one.name for one in reversed(entries) if one.name in inner]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
