"""Checkpoint folders: which files they hold, what is wrong with them, and the parts made of them."""

from .checkpoint import Checkpoint, find_checkpoints, open_checkpoint

__all__ = ["Checkpoint", "find_checkpoints", "open_checkpoint"]
