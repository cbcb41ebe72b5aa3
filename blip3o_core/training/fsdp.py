"""Tensors that FSDP divides between processes: put together for saving, divided again for resuming.

A saved file does not depend on the number of processes, so a run may resume with a different number.
"""

import torch


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The complete tensor. All processes must call it, in the same order. An undivided tensor is returned as it is."""
    tensor = tensor.detach()
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A complete tensor, divided between the processes as `like` is."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def optimizer_state(optimizer) -> dict:
    """The optimizer's state_dict with complete tensors."""
    state = optimizer.state_dict()
    moments = {
        index: {name: full_tensor(value) if isinstance(value, torch.Tensor) else value for name, value in entry.items()}
        for index, entry in sorted(state["state"].items())
    }
    return {**state, "state": moments}


def load_optimizer_state(optimizer, state: dict) -> None:
    """Load what `optimizer_state` gave, divided as this run's parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: shard_like(value, parameters[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})
