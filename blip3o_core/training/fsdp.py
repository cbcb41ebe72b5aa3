"""Tensors that FSDP divided between processes: put together to be saved, divided again to be resumed.

What is saved knows nothing of processes, so a run may be resumed with another number of them.
"""

import torch


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The complete tensor. All processes must ask for it, in the same order; one that is not divided is itself."""
    tensor = tensor.detach()
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A complete tensor as `like` is divided."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def optimizer_state(optimizer) -> dict:
    state = optimizer.state_dict()
    moments = {
        index: {name: full_tensor(value) if isinstance(value, torch.Tensor) else value for name, value in entry.items()}
        for index, entry in sorted(state["state"].items())
    }
    return {**state, "state": moments}


def load_optimizer_state(optimizer, state: dict) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: shard_like(value, parameters[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})
