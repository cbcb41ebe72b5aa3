"""The device that --device names, what it is called, and why it cannot be used."""

from ..errors import Blip3oError, first_line, shown
from .parser import quoted

_GET_TORCH = "Install a build of torch for your GPU (pytorch.org, Get Started)"


def device_of(name: str):
    """The torch device that --device names, after a first sum on it."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda":
            _require_cuda(device)
        torch.ones(1, device=device).item()
    except Exception as error:  # torch has an error of its own for each kind of device
        reason = str(error) if isinstance(error, Blip3oError) else f"{shown(first_line(error), 100)}. Try cpu or cuda."
        raise Blip3oError(f"--device {quoted(name)} cannot be used: {reason}") from error
    return device


def _require_cuda(device) -> None:
    import torch

    count = torch.cuda.device_count()
    if torch.version.cuda is None and torch.version.hip is None:
        raise Blip3oError(
            f"torch {torch.__version__} in this Python was built for the CPU alone. {_GET_TORCH}, or leave --device "
            "out to compute on the CPU."
        )
    if not torch.cuda.is_available() or not count:
        raise Blip3oError(
            "torch finds no GPU that it can use here. Run nvidia-smi to see whether the driver knows it, or leave "
            "--device out to compute on the CPU."
        )
    if device.index is not None and device.index >= count:
        names = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise Blip3oError(f"this machine has {names}. Choose one of them, or leave --device out.")


def device_name(device) -> str:
    """The device as a person knows it: "cpu", "cuda:0 (NVIDIA H100)"."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
