"""The decode step as one Triton kernel, for CUDA cards: the whole language model in a launch, and a sampler in a few.

- A launch per layer and operation leaves a card idle most of the time: a step of the published model reads 3 GB of
  weights, which takes 0.7 ms on an H200, in a thousand small kernels that take 4. Here one program per multiprocessor
  walks through all layers, meets the others at a barrier between the parts of a layer, and has its next weights under
  way before it waits.
- Weights are read where they lie, in float32, bfloat16, int8 or fp8: no copies, and a host's own tensors serve.
- A row's sums run in the same order whatever the batch, so row k of a batch is the single run, to the bit.
- Nothing is allocated in a step, so its recording as a CUDA graph allocates nothing either.

`tiles` reads weights and multiplies, `attention` attends, `step` puts a layer together, `sampler` chooses the token,
`engine` is what the decode loop sees. Triton comes with torch's CUDA builds; nothing here is imported without it.
"""

import os
from importlib import import_module
from importlib.util import find_spec

import torch

from ...models.language import LanguageModel
from ..direct import why_not_direct
from ..interface import Callback, Decoded, Job, Prefilled
from ..sampling import Chooser

OLDEST_TRITON = (3, 4)  # which torch 2.8 brings
MAX_ROWS = 8  # beyond, products for the tensor cores are quicker
# Kinds of models and devices whose first step was wrong or failed; `trial` fills it, with the reason.
FAILED: dict[tuple, str] = {}


def decode_fused(prefilled: Prefilled, choose: Chooser, callback: Callback | None) -> Decoded:
    """Engine "fused"; see `engine`, which needs Triton."""
    from .engine import decode_fused

    return decode_fused(prefilled, choose, callback)


def why_not_fused(job: Job) -> str | None:
    """Why the kernels cannot serve; None when they can."""
    device = job.device
    interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"it needs a CUDA card, not {device.type}"
    if not interpreted and torch.version.cuda is None:
        return "it needs an NVIDIA card"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if _version("triton") < OLDEST_TRITON:
        return f"it needs Triton {'.'.join(map(str, OLDEST_TRITON))} or newer"
    if not interpreted and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    if not job.sampling.image_tokens_only:
        return "with vocabulary 'full' an image may end early"
    if job.rows > MAX_ROWS:
        return f"it supports at most {MAX_ROWS} rows; this run has {job.rows} (token guidance counts each image twice)"
    if job.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes in float32 or bfloat16, not in {job.dtype}"
    unreadable = why_not_direct(job.lm, device, job.dtype, quantised=True)
    return why_not_shape(job.lm) or unreadable or FAILED.get(kind_of(job.lm, device, job.dtype))


def _version(module: str) -> tuple[int, ...]:
    return tuple(int(part) for part in import_module(module).__version__.split(".")[:2])


def why_not_shape(lm: LanguageModel) -> str | None:
    """Why the kernels cannot serve a model of these widths; None when they can."""
    config = lm.config
    heads = {"q": config.num_attention_heads * config.head_dim, "k": config.num_key_value_heads * config.head_dim}
    widths = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size, **heads}
    for name, width in widths.items():
        if width % 16:
            return f"the model's {name} is {width}, not a multiple of 16"
    if config.head_dim % 8:
        return f"the model's head_dim is {config.head_dim}, not a multiple of 8"
    if config.hidden_size > 8192:
        return f"the model's hidden_size is {config.hidden_size}; it supports at most 8192"
    return None


def kind_of(lm: LanguageModel, device: torch.device, dtype: torch.dtype) -> tuple:
    """The models and devices that a trial's result is valid for."""
    config, weight = lm.config, lm.model.layers[0].mlp.up_proj.weight
    shape = (config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads)
    return (str(device), dtype, *shape, config.head_dim, len(lm.model.layers), type(weight).__name__, weight.dtype)
