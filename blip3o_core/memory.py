"""Bytes of weights, and of what each step of the pipeline needs in addition, counted from a network's shapes.

Counted, not measured: what a host is asked to keep free before it loads a part, what `blip3o bench memory` prints, and
what is compared with the free memory before work begins. `rows`: images at once, twice as many with guidance. Networks
may be on the meta device.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from .errors import Blip3oError
from .models.language import KVCache, LanguageModel


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
    (its q, k, v are float32). `config`: as a mapping, with diffusers' defaults for what it does not have.
    """
    width = config.get("num_attention_heads", 70) * config.get("attention_head_dim", 32)
    return (4 * 2 * config.get("mlp_ratio", 2.5) * width + 12 * width) / config.get("patch_size", 1) ** 2


def diffusion_bytes(config, rows: int, cells: int, dtype: torch.dtype) -> int:
    """One pass of the diffusion transformer over latents of `cells` = h * w."""
    return int(rows * cells * diffusion_values_per_cell(config) * dtype.itemsize)


def vae_bytes(config, pixels: int, dtype: torch.dtype) -> int:
    """The autoencoder between a latent and `pixels` = H * W: nine tensors of its widest stage at full size.

    Counted on a residual block with its float32 norm.
    """
    widest = max(config["decoder_block_out_channels"][0], config["encoder_block_out_channels"][0])
    return 9 * widest * pixels * dtype.itemsize


def image_bytes(rows: int, pixels: int) -> int:
    """`rows` finished images of `pixels` = H * W in float32, and the copy that is made of them."""
    return 2 * rows * pixels * 3 * torch.float32.itemsize


def require_memory(needed: int, device: torch.device | str, what: str, remedy: str, free: float | None = None) -> None:
    """Raise Blip3oError when `needed` bytes are more than `device` has free.

    "{what} needs about 12.3 GB of memory, and 4.5 GB are free on cuda:0. {remedy}". `free`: where a host knows better
    than the system what can be had.
    """
    free = free_bytes(device) if free is None else free
    if free is not None and needed > free:
        # Beyond what any machine has, the number itself does not matter.
        size = f"{needed / 1e9:,.1f} GB" if needed < 1e15 else "more than a million GB"
        left = f"{free / 1e9:,.1f} GB are free on {device}"
        raise Blip3oError(f"{what} needs about {size} of memory, and {left}. {remedy}")


def free_bytes(device: torch.device | str) -> int | None:
    """Bytes that this process can still take on a device; None where the system does not say.

    On the CPU this is what is available with swap, or less: limits of the container (cgroup) and of the process count.
    """
    device = torch.device(device)
    if device.type == "cuda":
        stats = torch.cuda.memory_stats(device)
        cached = stats.get("reserved_bytes.all.current", 0) - stats.get("active_bytes.all.current", 0)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    found = [_available(), *_cgroup_rooms(), _address_room()]
    return max(0, min(found_bytes)) if (found_bytes := [each for each in found if each is not None]) else None


def _available() -> int | None:
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    kilobytes = {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    if "MemAvailable:" in kilobytes:
        return (kilobytes["MemAvailable:"] + kilobytes.get("SwapFree:", 0)) * 1024
    try:
        import psutil  # comes with ComfyUI and accelerate
    except ImportError:
        return None
    return psutil.virtual_memory().available + psutil.swap_memory().free


def _cgroup_rooms() -> Iterator[int]:
    """What each limit on this process's groups leaves; files that are kept in memory give way."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2 of cgroups
            top, limit, usage, prefix = Path("/sys/fs/cgroup"), "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, prefix = Path("/sys/fs/cgroup/memory"), "total_"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        kept = (f"{prefix}active_file", f"{prefix}inactive_file")
        group = top / name.lstrip("/")
        for folder in [each for each in (group, *group.parents) if each.is_relative_to(top)]:
            most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
            if most.isdigit() and used.isdigit():
                stat = dict(words for words in map(str.split, _read(folder / "memory.stat").splitlines()) if words[1:])
                yield int(most) - int(used) + sum(int(stat.get(name, 0)) for name in kept)


def _address_room() -> int | None:
    """What `ulimit -v` leaves; None without such a limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    size = _read("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not size:
        return None
    return limit - int(size[0]) * resource.getpagesize()


def _read(path: str | Path) -> str:
    """A small file of the kernel's; empty where there is none."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
