"""The versions of this program and what it stands on."""

import platform
import re
from importlib import metadata
from pathlib import Path

PACKAGE = "comfyui-blip3o-next"
LIBRARIES = ("torch", "transformers", "diffusers")


def version_numbers() -> dict[str, str]:
    """By name. A checkout says its own version."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    own = re.search(r'^version = "(.+)"$', project.read_text("utf-8"), re.MULTILINE) if project.is_file() else None
    return {
        "blip3o": own[1] if own else _version(PACKAGE),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    }


def versions() -> str:
    """All of them in a line for a report."""
    numbers = version_numbers()
    own, python = numbers.pop("blip3o"), numbers.pop("python")
    return f"blip3o {own} (Python {python}, {', '.join(f'{name} {number}' for name, number in numbers.items())})"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
