"""Where images go that were given no name: output/00001.png and so on, in the folder that the command runs in."""

import argparse
import re
from pathlib import Path

from ..files import NameTaken

FOLDER = Path("output")


def next_free() -> Path:
    """The number behind the highest one that a PNG in the folder has."""
    names = [path.name for path in FOLDER.iterdir()] if FOLDER.is_dir() else []
    numbers = [int(found[1]) for name in names if (found := re.fullmatch(r"([0-9]{1,9})\.png", name, re.IGNORECASE))]
    return FOLDER / f"{max(numbers, default=0) + 1:05d}.png"


def set_default_out(arguments: argparse.Namespace) -> None:
    """Give a single image its place when --out is left out; `save_image` makes sure that it is still free then."""
    arguments.numbered = arguments.out is None
    if arguments.numbered:
        arguments.out = next_free()


def save_image(arguments: argparse.Namespace, path: Path, image, settings: dict) -> Path:
    """Write a finished image, enlarged as --enlarge says, to `path` or to the next free number -> where it is."""
    from ..images.enlarge import enlarge
    from ..images.png import save_png

    image = enlarge(image, arguments.enlarge)
    if not getattr(arguments, "numbered", False):
        save_png(path, image, settings)
        return path
    while True:
        try:
            save_png(path, image, settings, replace=False)
            return path
        except NameTaken:  # another command was faster
            path = next_free()
