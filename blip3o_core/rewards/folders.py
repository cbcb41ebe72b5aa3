"""Models that the user brings, as folders of this machine that transformers saved: nothing is downloaded."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from ..errors import Blip3oError, shown

_CONFIG = "config.json"
_SAMPLE = 2**20  # bytes


def model_folder(model: Any, what: str) -> Path:
    """The folder of a model that is there. Raises Blip3oError for a name on a hub: nothing is downloaded.

    `what`: the kind of model that is needed, for messages.
    """
    path = Path(model).expanduser() if isinstance(model, str) and model and "\0" not in model else None
    if path is None or not (path / _CONFIG).is_file():
        raise Blip3oError(
            f"model is {shown(repr(model))}, which is not a folder with a {_CONFIG}. Nothing is downloaded: give the "
            f"folder of {what} that transformers saved or that was fetched from a hub."
        )
    if not list(path.glob("*.safetensors")):
        raise Blip3oError(
            f"{shown(str(path))} has no *.safetensors file, and other formats can run code when they are read. "
            "Fetch the model's safetensors file into that folder."
        )
    return path


def torch_device(device: Any) -> torch.device:
    try:
        found = torch.device(device) if isinstance(device, str) else None
        if found is not None:
            torch.empty(0, device=found)
            return found
    except (RuntimeError, AssertionError):  # torch without CUDA asserts
        pass
    raise Blip3oError(f"device is {shown(repr(device))}, which torch cannot use here. Use cpu, or cuda with a GPU.")


def folder_identity(folder: Path) -> str:
    """A name for the model in a folder: of its configuration, and of the sizes, beginnings and ends of its weights."""
    digest = hashlib.sha256((folder / _CONFIG).read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as content:
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            digest.update(content.read(_SAMPLE))
            content.seek(max(0, file.stat().st_size - _SAMPLE))
            digest.update(content.read(_SAMPLE))
    return digest.hexdigest()[:12]
