"""The process that works: `python -m tools.gpu_check.worker [--dry] FOLDER NAMES END`, which the watcher starts.

Stage after stage, torch imported once. It ends early where a stage leaves a card that does not answer.
"""

import contextlib
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from .report import replace, short
from .stages import STAGES, Limits
from .watcher import RUNNING

BROKEN = 3  # exit status: the card does not answer any more


class Notes:
    """What a stage found so far, kept in a file, so that it stays when the process goes."""

    def __init__(self, path: Path):
        self.path, self.found = path, {}
        self._began = time.monotonic()
        self.finish(RUNNING)

    def put(self, **values) -> None:
        self.found.update(values)
        self.finish(RUNNING)

    def row(self, table: str, **values) -> None:
        """One more row of a table."""
        print("    " + ", ".join(f"{name} {short(value)}" for name, value in values.items()), flush=True)
        self.put(**{table: [*self.found.get(table, []), values]})

    def say(self, line: str) -> None:
        """A line of the summary that ends the run."""
        self.put(summary=[*self.found.get("summary", []), line])

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A part of a stage that may fail alone."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.put(failures=[*self.found.get("failures", []), f"{what}: {type(error).__name__}: {str(error)[:600]}"])

    def finish(self, status: str, **more: str) -> None:
        seconds = round(time.monotonic() - self._began, 1)
        replace(self.path, json.dumps({"status": status, "seconds": seconds, **self.found, **more}, default=str))


def work(folder: Path, stages: dict[str, Callable[[Notes], None]], limits: dict[str, Limits], end: float) -> int:
    """Run every stage with notes of its own; exit status. `end`: seconds since 1970."""
    for name, run in stages.items():
        left = end - time.time()
        notes = Notes(folder / f"{name}.json")
        if left < limits[name].least:
            notes.finish("not run", error=f"{left:.0f} s were left")
            continue  # a shorter one may still fit
        print(f"---- {name} ({left:.0f} s left)", flush=True)
        try:
            run(notes)
        except Exception as error:
            trace = traceback.format_exc()
            print(trace, flush=True)
            notes.finish("failed", error=f"{type(error).__name__}: {str(error)[:1500]}", trace=trace[-3000:])
        else:
            notes.finish("partly" if notes.found.get("failures") else "ok")
        for line in notes.found.get("summary", []):
            print(f"    {line}", flush=True)
        if not _card_answers():
            print("the card does not answer any more; a new worker continues", flush=True)
            return BROKEN
    return 0


def _card_answers() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        return True
    except RuntimeError:
        return False


def main(arguments: list[str]) -> int:
    dry = "--dry" in arguments
    folder, names, end = (each for each in arguments if each != "--dry")
    from .bench import Bench

    bench = Bench(dry)

    def stage(name: str) -> Callable[[Notes], None]:
        def run(notes: Notes) -> None:
            bench.notes = notes
            with bench.kernels_noted():
                importlib.import_module(f"tools.gpu_check.stages.{name}").run(bench)

        return run

    return work(Path(folder), {name: stage(name) for name in names.split(",")}, STAGES, float(end))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
