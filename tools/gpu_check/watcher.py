"""The process that watches: it starts a worker, looks at the clock, and writes the results. Standard library only.

The worker keeps one JSON file for each stage it has begun in a folder that both know. A stage that raises costs itself.
One that outlasts its limit, or ends the process, costs the worker, and a new worker continues with the next stage.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import report
from .stages import Limits
from .unpack import TOP

START_LIMIT = 120  # seconds until a worker's first stage: it imports torch
RUNNING = "running"


@dataclass
class Watch:
    """One run. `command`: of a worker, to which the folder, the names and the end (seconds since 1970) are added."""

    command: list[str]
    stages: dict[str, Limits]
    out: Path
    budget: float
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    patience: float = 1.0  # limits are multiplied by this
    results: dict[str, dict] = field(default_factory=dict)

    def run(self) -> dict[str, dict]:
        """Stage -> what it noted, with its "status": ok, partly, failed, crashed, timeout or not run."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        self._write()
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
            while self._left and self._remaining > 0:
                before = self._left
                self._work(Path(folder))
                if self._left == before:  # it got to no stage: the first one takes the blame, so that this ends
                    self._finish(before[0], {}, "crashed", "the worker ended before its first stage")
        for name in self._left:
            self.results[name] = {"status": "not run", "error": "no time was left"}
        self._write()
        return self.results

    @property
    def _left(self) -> list[str]:
        return [name for name in self.stages if name not in self.results]

    @property
    def _remaining(self) -> float:
        return self.budget - self.seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def _write(self) -> None:
        report.write(self.out, self.results, self.seconds)

    def _finish(self, name: str, noted: dict, status: str, error: str) -> None:
        self.results[name] = {**noted, "status": status, "error": error}
        self._write()

    def _work(self, folder: Path) -> None:
        """Until the worker ends, a stage outlasts its limit, or the budget is spent."""
        end = time.time() + self._remaining
        command = [*self.command, str(folder), ",".join(self._left), str(end)]
        worker = subprocess.Popen(command, cwd=TOP, env=self.environment, start_new_session=True)
        running, since = None, time.monotonic()
        try:
            while True:
                ended = worker.poll() is not None
                name, noted = self._collect(folder)
                if name != running:
                    running, since = name, time.monotonic()
                if ended:
                    if running:
                        self._finish(running, noted, "crashed", f"the worker ended with {worker.returncode}")
                    return
                taken = time.monotonic() - since
                limit = self.stages[running].most * self.patience if running else START_LIMIT
                if taken > limit or self._remaining < 0:
                    why = "its limit" if taken > limit else "the end of the budget"
                    if running:
                        self._finish(running, noted, "timeout", f"cut off after {taken:.0f} s, {why}")
                    return
                time.sleep(0.1)
        finally:
            kill(worker)

    def _collect(self, folder: Path) -> tuple[str | None, dict]:
        """Take over what is finished; the stage that is running, and what it noted so far."""
        for name in self._left:
            noted = read(folder / f"{name}.json")
            if noted.get("status") == RUNNING:
                return name, noted
            if noted:
                self.results[name] = noted
                self._write()
        return None, {}


def read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}


def kill(process: subprocess.Popen) -> None:
    """End a process that leads a group, with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
