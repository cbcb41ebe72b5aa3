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
from ..direct import obstacle as unreadable
from ..sampling import Sampling

OLDEST_TRITON = (3, 4)  # which torch 2.8 brings
MAX_ROWS = 8  # beyond, products for the tensor cores are quicker
# Kinds of models and devices whose first step was wrong or failed; `trial` fills it, with the reason.
FAILED: dict[tuple, str] = {}


def obstacle(lm: LanguageModel, rows: int, sampling: Sampling, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot serve; None when they can. `rows`: that are fed, guidance included."""
    interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"it is made for CUDA cards, not for {device.type}"
    if not interpreted and torch.version.cuda is None:
        return "it is made for NVIDIA cards"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if _version("triton") < OLDEST_TRITON:
        return f"Triton is older than {'.'.join(map(str, OLDEST_TRITON))}"
    if not interpreted and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    if not sampling.image_tokens_only:
        return "an end token may cut the picture short"
    if rows > MAX_ROWS:
        return f"there are {rows} rows, guidance included, and it takes {MAX_ROWS}"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"it computes in float32 or bfloat16, not in {dtype}"
    return shape_obstacle(lm) or unreadable(lm, device, dtype, quantised=True) or FAILED.get(kind_of(lm, device, dtype))


def _version(module: str) -> tuple[int, ...]:
    return tuple(int(part) for part in import_module(module).__version__.split(".")[:2])


def shape_obstacle(lm: LanguageModel) -> str | None:
    config = lm.config
    heads = {"q": config.num_attention_heads * config.head_dim, "k": config.num_key_value_heads * config.head_dim}
    widths = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size, **heads}
    for name, width in widths.items():
        if width % 16:
            return f"its {name} is {width}, no multiple of 16"
    if config.head_dim % 8 or config.hidden_size > 8192:
        return f"its head_dim is {config.head_dim} and its hidden_size {config.hidden_size}"
    return None


def kind_of(lm: LanguageModel, device: torch.device, dtype: torch.dtype) -> tuple:
    """What a trial's result holds for."""
    config, weight = lm.config, lm.model.layers[0].mlp.up_proj.weight
    shape = (config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads)
    return (str(device), dtype, *shape, config.head_dim, len(lm.model.layers), type(weight).__name__, weight.dtype)
