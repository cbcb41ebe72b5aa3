"""A command of the library in a process of its own, which ends with the node that waits for it."""

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...blip3o_core.cli.ending import GRACE
from ...blip3o_core.cli.processes import start
from ...blip3o_core.errors import Blip3oError, first_line, shown

POLL = 0.2  # seconds
MOST_SHOWN = 600  # characters of an error


@contextlib.contextmanager
def started(what: str, words: list[str], output: Path, variables: Mapping[str, str] = {}) -> Iterator[subprocess.Popen]:
    """The process of the command `words`; all that it says goes to the file `output`. `what`: it, in words."""
    with open(output, "wb") as file:
        try:
            process = start(words, variables, stdout=file, stderr=subprocess.STDOUT)
        except OSError as error:
            raise Blip3oError(f"{what} cannot be started: {first_line(error)}. Close other programs.") from error
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.stdin.close()
            process.wait()


def status_of(process: subprocess.Popen) -> int | None:
    """The exit status, None while the process runs; waits a moment for it."""
    try:
        return process.wait(POLL)
    except subprocess.TimeoutExpired:
        return None


def failure(what: str, status: int, output: Path, advice: str) -> str:
    """Why a process failed, in its own words. `advice`: what else to do where memory was full."""
    if status < 0:
        return (
            f"{what} was ended by signal {-status}. The system does that when memory is full: close other programs, or "
            f"{advice}."
        )
    text = output.read_text(encoding="utf-8", errors="replace").strip()
    told = list(re.finditer(r"^error: ", text, re.MULTILINE))
    text = text[told[-1].end() :] if told else text.rpartition("\n")[2]
    # Only the command line can continue a run.
    text = re.sub(r"[^.!?\n]*--resume[^.!?\n]*[.!?]?", "", text).strip()
    return f"{what} failed: {shown(text, MOST_SHOWN)}"
