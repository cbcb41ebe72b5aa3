"""Programs in sessions of their own, whose processes can be counted and killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import TOP

DEADLINE = 300  # seconds until something that does not happen is given up
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def start(module: str, *words, cwd) -> subprocess.Popen:
    """A program in a session of its own, as from a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
    pipe, command = subprocess.PIPE, [sys.executable, "-m", module, *map(str, words)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def alive(session: int) -> list[int]:
    """Processes of a session that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            found += [int(entry.name)] * (int(of) == session and state != "Z")
    return found


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not in {DEADLINE} s"
        time.sleep(0.01)
