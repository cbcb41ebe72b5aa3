"""Where downloads belong: the models folder of the ComfyUI at hand, else one in the current folder."""

import os
from pathlib import Path

from ..errors import Blip3oError
from ..files import read_text
from ..yaml_reader import parse_yaml

_FOLDER = Path("models", "blip3o")


def models_folder() -> Path:
    """The folder that checkpoints are looked for in.

    ComfyUI is `COMFYUI_PATH`, the one whose custom_nodes hold this pack, or the current folder. An entry `blip3o` in
    its extra_model_paths.yaml comes first, as in ComfyUI.
    """
    for comfyui in _places():
        if (comfyui / "main.py").is_file() or (comfyui / "models").is_dir():
            return _extra_path(comfyui / "extra_model_paths.yaml") or comfyui / _FOLDER
    return Path.cwd() / _FOLDER


def _places() -> list[Path]:
    named = os.environ.get("COMFYUI_PATH")
    around = Path(__file__).resolve().parents[3]  # the folder that the pack lies in
    places = [Path(named).expanduser()] if named else []
    places += [around.parent] if around.name == "custom_nodes" else []
    return [*places, Path.cwd()]


def _extra_path(path: Path) -> Path | None:
    """The first folder that an extra_model_paths.yaml names for `blip3o`; None where it names none."""
    if not path.is_file():
        return None
    try:
        content = parse_yaml(read_text(path), str(path), "Correct it.")
    except (Blip3oError, ImportError):  # ComfyUI says what is wrong with it
        return None
    for section in content.values() if isinstance(content, dict) else ():
        folders = section.get("blip3o") if isinstance(section, dict) else None
        if isinstance(folders, str) and folders.strip():
            base = section.get("base_path")
            first = folders.strip().splitlines()[0].strip()
            return path.parent / Path(base if isinstance(base, str) else "").expanduser() / first
    return None
