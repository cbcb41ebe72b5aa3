"""Checks that several rooms share; their messages name the value and the next step."""

import torch

from .errors import Blip3oError


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity. Waits for its device."""
    if tensor.numel() == 0:
        return True
    if tensor.dtype.itemsize == 1:  # torch compares no 8-bit floats
        tensor = tensor.float()
    if tensor.device.type != "cpu":
        return bool(torch.isfinite(tensor).all())
    # No temporary of the size of a checkpoint's largest tensor: the extremes carry NaN and infinity along.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def require_finite(tensor: torch.Tensor, what: str, remedy: str) -> None:
    """Raise Blip3oError when `tensor` holds NaN or infinity: "{what} contains NaN or infinite values. {remedy}"."""
    if not is_finite(tensor):
        raise Blip3oError(f"{what} contains NaN or infinite values. {remedy}")
