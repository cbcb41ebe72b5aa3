"""The layout of a benchmark's folder besides its images: further files, and what is put together at the end."""

from collections.abc import Sequence

from ..files import atomic_write, naming_failures
from .interface import Task
from .plan import Row
from .run_folder import RunFolder


def write(folder: RunFolder, task: Task, rows: Sequence[Row]) -> bool:
    """Write what the layout needs -> whether it is complete: grids and the like wait until every image is there."""
    for item in {row.item.id: row.item for row in rows}.values():
        for name, content in task.others(item).items():
            path = folder.images / name
            if path.is_file() and path.read_bytes() == content:
                continue
            with naming_failures(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as scratch:
                    scratch.write_bytes(content)
    if not all(folder.image(row).is_file() for row in rows):
        return False
    task.finish(folder.images)
    return True
