"""The rewards that a node offers: built-in ones, and those of the user in `models/blip3o_rewards`.

A workflow names a reward and nothing else: no address, no code. What needs more than a name is a YAML file that the
user put into that folder.
"""

from pathlib import Path

import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from . import folders

FOLDER = "blip3o_rewards"
BUILT_IN = ("text", "consistency", "tiny")  # those that need no options
ENDS = (".yaml", ".yml")
MODEL = "config.json"  # in the folder of a model that transformers loads


def register() -> None:
    """Make the folder known. It is made by whoever wants it: most never need it."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))


def names() -> list[str]:
    """The built-in rewards, then the user's settings files and model folders. Never raises."""
    return [*BUILT_IN, *sorted(_own())]


def entry(name: str) -> str | dict:
    """A name from the list -> what `read_rewards` takes. Raises Blip3oError for any other."""
    if name in BUILT_IN:
        return name
    path = _own().get(name)
    if path is None:
        places = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise Blip3oError(
            f"Cannot find the reward {shown(repr(name))} in {places}. Put its .yaml file or the folder of its model "
            f"there, press R to refresh the list, and choose it again. Built-in are {', '.join(BUILT_IN)}."
        )
    return str(path) if path.suffix.lower() in ENDS else {"name": "clip", "options": {"model": str(path)}}


def fingerprint(name: str) -> str:
    """Of a file's path, size and time: the node runs again if one changes."""
    if name in BUILT_IN:
        return name
    path = _own().get(name) if isinstance(name, str) else None
    place = path / MODEL if path is not None and path.is_dir() else path
    return folders.fingerprint_of(lambda: str(place or Path(name)), name)


def _own() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(FOLDER)):
        try:
            inside = sorted(root.iterdir())
        except OSError:
            continue
        for path in inside:
            if path.suffix.lower() in ENDS or (path / MODEL).is_file():
                found.setdefault(path.name, path)
    return found
