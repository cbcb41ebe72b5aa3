"""Checks that several rooms share; their messages name the value and the next step."""

import torch

from .errors import Blip3oError


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity. Waits for its device."""
    return bool(torch.isfinite(tensor).all())


def require_finite(tensor: torch.Tensor, what: str, remedy: str) -> None:
    """Raise Blip3oError when `tensor` holds NaN or infinity: "{what} contains NaN or infinite values. {remedy}"."""
    if not is_finite(tensor):
        raise Blip3oError(f"{what} contains NaN or infinite values. {remedy}")
