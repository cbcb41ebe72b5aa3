"""`tests/gpu`, by pytest in a process of its own."""

import subprocess
import sys

from ..bench import Bench
from ..unpack import TOP


def run(bench: Bench) -> None:
    """Pass when no test failed; in a dry run all are skipped."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-rs", "-n0", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    bench.notes.put(log=lines[-60:], exit=done.returncode)
    bench.notes.say(lines[-1] if lines else done.stderr[-300:])
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            bench.notes.say(line)
    if done.returncode:
        raise AssertionError(f"pytest ended with {done.returncode}: {lines[-1] if lines else done.stderr[-1000:]}")
