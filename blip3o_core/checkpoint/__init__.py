"""Checkpoint folders: recognised, checked whole, and loaded part by part.

recognise -> checkpoint -> validate -> networks -> facts: each module imports those behind it. What this package gives
is imported when it is asked for: the names of checkpoints (`bundled`, `find`) are known without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .facts import AUTOENCODER, IMAGE_TOKENIZER, LANGUAGE, TRANSFORMER
    from .find import find_checkpoints
    from .recognise import open_checkpoint

__all__ = [
    "AUTOENCODER",
    "IMAGE_TOKENIZER",
    "LANGUAGE",
    "TRANSFORMER",
    "Checkpoint",
    "find_checkpoints",
    "open_checkpoint",
]

_MODULES = {"Checkpoint": ".checkpoint", "find_checkpoints": ".find", "open_checkpoint": ".recognise"}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, ".facts"), __name__), name)
