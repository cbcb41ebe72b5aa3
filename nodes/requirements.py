"""Whether the libraries that requirements.txt lists are there, and the command that installs them if they are not."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

from ..blip3o_core.errors import Blip3oError, first_line

FILE = Path(__file__).resolve().parent.parent / "requirements.txt"


def problem() -> str | None:
    """What is missing or too old, and what to do. None if all is there."""
    lines = [line.strip() for line in FILE.read_text(encoding="utf-8").splitlines()]
    found = [each for each in (_problem_of(line) for line in lines if line and line[0] != "#") if each]
    return _with_remedy(f"BLIP3o-NEXT needs {' and '.join(found)}.") if found else None


def _problem_of(line: str) -> str | None:
    """`line`: name>=version."""
    needed = Requirement(line)
    name, lowest = needed.name, line.partition(">=")[2]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # A copy that no installer put there has no version to read.
        return None if importlib.util.find_spec(name) else f"{name} {lowest} or newer, which is not installed"
    fits = needed.specifier.contains(version, prereleases=True)
    return None if fits else f"{name} {lowest} or newer, but {version} is installed"


def _with_remedy(what: str) -> str:
    return f'{what} Install it with this command, then restart ComfyUI: "{sys.executable}" -m pip install -r "{FILE}"'


@cache
def _problem_at_first() -> str | None:
    """Asked once: what is installed later needs a restart anyway."""
    return problem()


def check() -> None:
    """Raise Blip3oError if something is missing or too old."""
    problem = _problem_at_first()
    if problem:
        raise Blip3oError(problem)


def explained(error: ImportError) -> Blip3oError:
    """For a library that is installed and cannot be imported."""
    return Blip3oError(_with_remedy(f"A library that BLIP3o-NEXT needs cannot be imported: {first_line(error)}."))


def check_extras(doing: str, packages: Iterable[str], extras: str) -> None:
    """Raise Blip3oError if a package is missing that only some nodes need. `extras`: those of the project with them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise Blip3oError(
            f"{doing} needs more packages: {', '.join(missing)}. Install them with this command, then restart "
            f'ComfyUI: "{sys.executable}" -m pip install "{FILE.parent}[{extras}]"'
        )
