"""Bytes of weights, and of what each step of the pipeline needs in addition, counted from a network's shapes.

Counted, not measured: what a host is asked to keep free before it loads a part, what `blip3o bench memory` prints, and
what is compared with the free memory before work begins. `rows`: images at once, twice as many with guidance. Networks
may be on the meta device.
"""

from pathlib import Path

import torch
from torch import nn

from .errors import Blip3oError
from .models.language import KVCache, LanguageModel

_CGROUP = Path("/sys/fs/cgroup")


def require_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Raise Blip3oError when `needed` bytes are more than `device` has free.

    "{what} needs about 12.3 GB of memory, and 4.5 GB are free on cuda:0. {remedy}"
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        # A number beyond all machines tells nobody anything.
        size = f"{needed / 1e9:,.1f} GB" if needed < 1e15 else "more than a million GB"
        left = f"{free / 1e9:,.1f} GB are free on {device}"
        raise Blip3oError(f"{what} needs about {size} of memory, and {left}. {remedy}")


def free_bytes(device: torch.device) -> int | None:
    """What can still be allocated on a device; None where nobody knows. Main memory counts with its swap."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps freed memory for the next tensor.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    import psutil

    free = psutil.virtual_memory().available + psutil.swap_memory().free
    limit = _container_free()
    return free if limit is None else min(free, limit)


def _container_free() -> int | None:
    """What a container may still allocate; None without a limit of its own."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        facts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - used + int(facts.get("inactive_file", 0)) + int(facts.get("active_file", 0))
    except (OSError, ValueError):  # no control groups, or "max"
        return None


def weight_bytes(network: nn.Module, dtype: torch.dtype) -> int:
    """All parameters, stored in `dtype`."""
    return sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize


def quantised_weight_bytes(language: LanguageModel, dtype: torch.dtype, per_row: bool = True) -> int:
    """The layers' matrices at a byte a number with a float32 scale for each of their rows, all the rest in `dtype`.

    `per_row` False: one scale for a matrix.
    """
    found = [module.weight for module in language.model.layers.modules() if isinstance(module, nn.Linear)]
    numbers, scales = sum(w.numel() for w in found), sum(len(w) if per_row else 1 for w in found)
    return weight_bytes(language, dtype) + numbers * (1 - dtype.itemsize) + scales * torch.float32.itemsize


def lm_prefill_bytes(config, rows: int, length: int, dtype: torch.dtype) -> int:
    """One pass of the language model over `rows` x `length` tokens: the activations of a layer."""
    return rows * length * (4 * config.intermediate_size + 12 * config.hidden_size) * dtype.itemsize


def lm_decode_bytes(config, rows: int, length: int, words: int, dtype: torch.dtype) -> int:
    """To write up to `length` tokens, prompt included: the cache, the output matrix of `words` rows, and logits."""
    numbers = words * config.hidden_size + 6 * rows * words
    return (
        lm_prefill_bytes(config, rows, length, dtype)
        + KVCache.nbytes(config, rows, length, dtype)
        + numbers * dtype.itemsize
    )


def diffusion_values_per_cell(config) -> float:
    """Numbers that the diffusion transformer holds for each cell of a latent, at the widest point of a block.

    The gated convolution holds about four tensors of 2 * mlp_ratio * width, and linear attention about twelve of width
    (its q, k, v are float32).
    """
    width = config.num_attention_heads * config.attention_head_dim
    return (4 * 2 * config.mlp_ratio * width + 12 * width) / config.patch_size**2


def diffusion_bytes(config, rows: int, cells: int, dtype: torch.dtype) -> int:
    """One pass of the diffusion transformer over latents of `cells` = h * w."""
    return int(rows * cells * diffusion_values_per_cell(config) * dtype.itemsize)


def vae_bytes(config, pixels: int, dtype: torch.dtype) -> int:
    """The autoencoder between a latent and `pixels` = H * W: nine tensors of its widest stage at full size.

    Counted on a residual block with its float32 norm.
    """
    widest = max(config.decoder_block_out_channels[0], config.encoder_block_out_channels[0])
    return 9 * widest * pixels * dtype.itemsize
