"""What lies under a folder of models: names only. No file is opened, and on most systems none is looked at."""

import os
from dataclasses import dataclass, field
from pathlib import Path

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Parts of other models in the layout of diffusers, with a config.json and weights of their own.
_PARTS = ("text_encoder", "text_encoder_2", "image_encoder", "safety_checker", "transformer", "vae", "unet")


@dataclass
class Found:
    """Paths relative to the folder that was looked through, with '/'; "." is the folder itself."""

    checkpoints: list[str] = field(default_factory=list)
    diffusion_folders: list[str] = field(default_factory=list)
    tatok_files: list[str] = field(default_factory=list)


def find_models(root: str | Path, depth: int = 3) -> Found:
    """Everything that looks like a model, up to `depth` folders down. Never raises.

    Hidden names are passed over, and the `._` files that macOS writes beside every file on foreign disks.
    """
    found = Found()

    def look(folder: str, relative: str, above: tuple[str, ...]) -> None:
        try:
            with os.scandir(folder) as entries:
                visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError:
            return
        names = {entry.name for entry in visible}
        here = relative or "."
        if "config.json" in names and not names.isdisjoint(WEIGHTS):
            found.checkpoints.append(here)
        if {"transformer", "vae"} <= names and _holds_configs(folder):
            found.diffusion_folders.append(here)
        for entry in visible:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.name.endswith(".pth") and path.count("/") < 2 and _is_kind(entry, os.DirEntry.is_file):
                found.tatok_files.append(path)
            elif len(above) < depth and entry.name not in _PARTS and _is_kind(entry, os.DirEntry.is_dir):
                # A link to a folder above would be followed for ever.
                inside = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if inside not in above and inside != folder:
                    look(inside, path, (*above, folder))

    look(os.path.realpath(root), "", ())
    return found


def find_checkpoints(root: str | Path, depth: int = 3) -> list[str]:
    """Folders under `root` that look like a checkpoint, see `find_models`."""
    return sorted(find_models(root, depth).checkpoints)


def _holds_configs(folder: str) -> bool:
    return all(os.path.isfile(os.path.join(folder, part, "config.json")) for part in ("transformer", "vae"))


def _is_kind(entry: os.DirEntry, kind) -> bool:
    """Whether an entry is a file or folder; False where the system cannot say."""
    try:
        return kind(entry)
    except OSError:
        return False
