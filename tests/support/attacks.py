"""Bad input for the command line, each in a process of its own with limits on time and memory, and how it must end.

A process forked from one that has imported the library already costs a tenth of a second, not three.
"""

import contextlib
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from blip3o_core.checkpoint import bundled

SECONDS, GIBIBYTES = 60, 6
BUNDLED = Path(bundled.resolve_checkpoint(None))
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["blip3o_core.cli.main", "blip3o_core.pipeline", "blip3o_core.training.trainer"])


@dataclass(frozen=True)
class Attack:
    """A name, what makes the input in an empty folder and gives the command's words, and what the answer must match.

    `says`: a regular expression for standard error; None: the input is fine, and the command ends with status 0.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    says: str | None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `status` None: it had to be stopped after its time."""

    status: int | None
    out: str
    err: str


def attacks(sample: Sequence[Attack], slow: Sequence[Attack] = (), long: Sequence[Attack] = ()):
    """pytest's decorator: a test for each attack; those in `slow` and `long` with that marker."""
    marked = [pytest.param(attack, marks=pytest.mark.slow) for attack in slow]
    marked += [pytest.param(attack, marks=pytest.mark.long) for attack in long]
    return pytest.mark.parametrize("attack", [*sample, *marked], ids=str)


def check(attack: Attack, place: Path) -> None:
    """The attack is answered in words, in time and in little memory, and no file is left under the output's name."""
    words = attack.prepare(place)
    before = set(place.rglob("*"))
    outcome = run(words, place)
    assert outcome.status is not None, f"{attack} does not end within {SECONDS} s"
    assert "Traceback" not in outcome.err, outcome.err[-3000:]
    if attack.says is None:
        assert outcome.status == 0, outcome
        return
    assert outcome.status in (1, 2), outcome
    assert len(outcome.err) < 6000 and re.search(attack.says, outcome.err, re.S), outcome.err[:3000]
    left = {path.relative_to(place) for path in set(place.rglob("*")) - before if path.is_file()}
    assert not {path for path in left if path.suffix in (".png", ".part")}, left


def run(words: list[str], place: Path, seconds: float = SECONDS) -> Outcome:
    """The `blip3o` command with `words`, in the folder `place`."""
    logs = place.parent / f"{place.name}.out", place.parent / f"{place.name}.err"
    process = _forks.Process(target=_child, args=(list(map(str, words)), str(place), *map(str, logs)))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return Outcome(None, *(log.read_text(errors="replace") for log in logs))
    return Outcome(process.exitcode, *(log.read_text(errors="replace") for log in logs))


def _child(words: list[str], place: str, out: str, err: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIBIBYTES * 2**30,) * 2)
    os.chdir(place)
    for stream, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(k, "wb", closefd=False), "utf-8", "replace") for k in (1, 2))
    status = 1
    try:
        from blip3o_core.cli.main import main

        status = main(words) or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # what the interpreter would print
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    os._exit(status)


def copy_of_bundled(place: Path) -> Path:
    """The bundled checkpoint in a folder of its own; weights are links, which a change must replace."""
    folder = place / "model"
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in BUNDLED.rglob("*.safetensors"):
        (folder / file.relative_to(BUNDLED)).symlink_to(file)
    return folder


def edit_json(path: Path, drop: tuple[str, ...] = (), **changes) -> None:
    """Change and remove entries of a JSON file."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in drop}))


def write_safetensors(path: Path, header: bytes | dict, data: bytes = b"", length: int | None = None) -> None:
    """A safetensors file from its pieces, however wrong they are. `length`: what it says of its header."""
    header = json.dumps(header).encode() if isinstance(header, dict) else header
    path.unlink(missing_ok=True)
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def read_safetensors(path: Path) -> tuple[dict, bytes]:
    """(header, data)."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def generate(folder: Path, *more: str, prompt: str = "a red circle") -> list[str]:
    """The words of a small image from a checkpoint."""
    return ["generate", "--checkpoint", str(folder), "--prompt", prompt, "--steps", "2", "--out", "out.png", *more]
