"""The language model's matrices as int8 or fp8, in ComfyUI's own quantised tensors.

Only weights are rounded: each matrix is turned back into the compute dtype when it is used. ComfyUI's own Linear for
such tensors also rounds int8 activations to eight bits, so its `forward` is replaced; what it does to move and patch
weights (LoRA) is kept. Only the matrices of Qwen3's layers are quantised. Embeddings, which are also the output matrix,
norms and connectors keep the model's dtype.
"""

from functools import cache
from typing import Any

import comfy.ops
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor, get_layout_class
from torch import nn

from ...blip3o_core.errors import Blip3oError
from .offload import is_patched

PLAIN = "same as dtype"
FORMATS = {"int8": "int8_tensorwise", "fp8": "float8_e4m3fn"}  # ComfyUI's names for them


@cache
def _leaf() -> type:
    ops: Any = comfy.ops.mixed_precision_ops(full_precision_mm=True)

    class QuantisedLinear(ops.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            comfy.ops.run_every_op()
            weight, bias, stream = comfy.ops.cast_bias_weight(self, input, offloadable=True)
            # A patched weight that was streamed in has been dequantized already.
            matrix = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
            out = nn.functional.linear(input, matrix, bias)
            comfy.ops.uncast_bias_weight(self, weight, bias, stream)
            return out

        def stored(self) -> tuple[torch.Tensor, torch.Tensor] | None:
            """(weight as bytes, scale of each row or of all); None if the library cannot read them in place."""
            weight = self.weight
            if hasattr(self, "_v") or self.bias is not None or is_patched(self):
                return None
            if not isinstance(weight, QuantizedTensor):
                return None
            numbers = weight._qdata  # QuantizedTensor has no public name for it
            return (numbers, weight.params.scale) if numbers.shape == weight.shape else None

    return QuantisedLinear


def check(choice: str) -> None:
    """Raises Blip3oError unless this ComfyUI can store weights in the format `choice`."""
    if choice != PLAIN and choice not in FORMATS:
        raise Blip3oError(f"lm_weights is {choice!r}. Choose {PLAIN!r}, {' or '.join(map(repr, FORMATS))}.")
    algorithm = QUANT_ALGOS.get(FORMATS.get(choice))
    if choice != PLAIN and (algorithm is None or get_layout_class(algorithm["comfy_tensor_layout"]) is None):
        raise Blip3oError(
            f"lm_weights is {choice!r}, but this ComfyUI cannot store weights in that format. Update ComfyUI and "
            f"install its requirements.txt, which has comfy-kitchen, or set lm_weights to {PLAIN!r}."
        )


def quantise(network, choice: str, dtype: torch.dtype):
    """Store the matrices of a LanguageModel's layers as `choice` and everything else in `dtype`; returns `network`.

    int8 has a scale for each row of a matrix, fp8 (e4m3) one for the whole matrix: the finest that ComfyUI offers.
    Works in place and on one matrix at a time, so that the model is never in memory twice.
    """
    name = FORMATS[choice]
    layout = QUANT_ALGOS[name]["comfy_tensor_layout"]
    for leaf in network.model.layers.modules():
        if type(leaf) is nn.Linear:
            _swap(leaf, name, layout, dtype)
    for module in network.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, QuantizedTensor) and parameter.dtype != dtype:
                setattr(module, key, nn.Parameter(parameter.to(dtype), requires_grad=False))
    return network


def _swap(leaf: nn.Linear, name: str, layout: str, dtype: torch.dtype) -> None:
    # In float32: ComfyUI's rounding to fp8 multiplies by a scale in the dtype of its input.
    values = leaf.weight.detach().float()
    options = {"per_channel": True} if name == "int8_tensorwise" else {"scale": _power_of_two(values)}
    stored = QuantizedTensor.from_float(values, layout, **options).to(dtype=dtype)
    leaf.__class__ = _leaf()
    leaf.weight = nn.Parameter(stored, requires_grad=False)
    leaf.quant_format, leaf.layout_type, leaf._orig_shape = name, layout, tuple(values.shape)
    leaf.factory_kwargs = {"device": None, "dtype": dtype}
    leaf._full_precision_mm, leaf._full_precision_mm_config = True, True


def _power_of_two(values: torch.Tensor) -> torch.Tensor:
    """A scale that bfloat16 holds exactly. A rounded scale would change the length of the whole matrix."""
    largest = values.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.exp2(torch.ceil(torch.log2(largest / torch.finfo(torch.float8_e4m3fn).max)))


def scratch(network, dtype: torch.dtype) -> int:
    """Bytes for one matrix while it is used: in float32 while it is dequantized, and in the compute dtype."""
    sizes = (p.numel() for p in network.parameters() if isinstance(p, QuantizedTensor))
    return max(sizes, default=0) * (dtype.itemsize + torch.float32.itemsize)
