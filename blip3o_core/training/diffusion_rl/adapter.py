"""The LoRA that is trained: peft's adapters on the linear layers of SANA, whose own weights stay as they are.

With the adapters off, SANA is the checkpoint's: the reference of the KL needs no second copy. A file of the adapters
alone has the names that ComfyUI's LoRA loaders know.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ...checks import require_finite
from ...seeds import seeded
from ...weights.names import SANA

FILE = "diffusion_lora.safetensors"
_PREFIX = "diffusion_model."  # what a host calls the diffusion transformer of its MODEL
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(transformer: nn.Module, rank: int, alpha: float, targets: tuple[str, ...], seed: int) -> None:
    """Freeze SANA and put adapters on its modules that `targets` names, in place. They change nothing at first."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, transformer)
    # peft's first factor starts from the process's random state. Here it starts from the run's seed.
    generator = seeded(seed)
    for name, parameter in adapter_parameters(transformer).items():
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=5**0.5, generator=generator)
            parameter.data.copy_(start)


def adapter_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name, in a fixed order."""
    return {name: p for name, p in sorted(transformer.named_parameters()) if ".lora_" in name}


@contextmanager
def adapters_off(transformer: nn.Module) -> Iterator[None]:
    """Inside the block the network is the checkpoint's. Gradients do not flow through what is computed there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_tensors(transformer: nn.Module, scale: float) -> dict[str, torch.Tensor]:
    """The weights that the adapters change, with them, by their names in a checkpoint. `scale`: alpha over rank."""
    state, merged = transformer.state_dict(), {}
    for name in state:
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            change = state[layer + _B].float() @ state[name].float()
            merged[f"{SANA}{layer}.weight"] = state[layer + ".base_layer.weight"].float() + scale * change
    remedy = "The checkpoint was not saved. Start a new run with a lower lr."
    for name, tensor in merged.items():
        require_finite(tensor, name, remedy)
    return merged


def save_adapters(folder: Path, transformer: nn.Module, alpha: float) -> None:
    """Write the adapters alone into the new `folder`."""
    tensors = {}
    for name, parameter in adapter_parameters(transformer).items():
        layer = f"{_PREFIX}{name}".replace(".default.", ".")
        tensors[layer] = parameter.detach().cpu().contiguous()
        tensors[f"{layer.rsplit('.lora_', 1)[0]}.alpha"] = torch.tensor(float(alpha))
    folder.mkdir(parents=True)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
