"""Swap the leaves of a library network for ones the host can stream, cast and patch, and hand it to a patcher.

ComfyUI moves weights leaf by leaf and only through modules that carry its cast operations; a leaf without them stays on
the CPU as soon as a model does not fit. So the swap must be complete: `unswapped` lists what was missed. Parameters and
buffers that belong to no leaf (SANA's scale_shift_table, rotary tables) are a few kilobytes; they follow the model to
its device whenever the host loads it, wholly or in part.
"""

from collections.abc import Callable
from functools import cache

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

_ops = comfy.ops.disable_weight_init


class _Stored:
    """A leaf whose weight the library may read where it lies, when the host does nothing to it on the way."""

    def stored(self) -> tuple[torch.Tensor, None] | None:
        """The weight, and no scales; None where it is streamed in, or has a bias."""
        # A leaf whose weights the host streams in has no address that stays.
        return None if hasattr(self, "_v") or self.bias is not None else (self.weight, None)


class _Readable(_Stored):
    """A leaf whose weight may be read: the output matrix of the language model, a codebook."""

    def weight_for(self, like: torch.Tensor, rows: slice) -> torch.Tensor:
        """Rows of the weight, patched, on `like`'s device and dtype; the caller may keep them for a whole run."""
        weight, bias, stream = comfy.ops.cast_bias_weight(self, dtype=like.dtype, device=like.device, offloadable=True)
        # A weight that was streamed in lies in a buffer the next leaf will overwrite.
        own = weight.data_ptr() == self.weight.data_ptr() or not _streamed(self, stream)
        kept = weight[rows] if own else weight[rows].clone()
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return kept


def _streamed(leaf: nn.Module, stream: tuple) -> bool:
    return hasattr(leaf, "_v") or stream[0] is not None


class Linear(_ops.Linear, _Readable):
    pass


class Embedding(_ops.Embedding, _Readable):
    pass


class _RootMeanSquare(comfy.ops.CastWeightBiasOp, _Stored):
    """Casting forward for the RMS norms of diffusers and of Qwen3: float32 statistics, weight in the input's dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        comfy.ops.run_every_op()
        if self.weight is None or not (self.comfy_cast_weights or self.weight_function or self.bias_function):
            return super().forward(x)
        weight, bias, stream = comfy.ops.cast_bias_weight(self, x, offloadable=True)
        eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        out = (x * torch.rsqrt(variance + eps)).to(x.dtype) * weight
        out = out if bias is None else out + bias
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return out


@cache
def _replacements() -> dict[type, type]:
    from diffusers.models.normalization import RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    class DiffusersNorm(_RootMeanSquare, RMSNorm):
        pass

    class QwenNorm(_RootMeanSquare, Qwen3RMSNorm):
        pass

    return {
        nn.Linear: Linear,
        nn.Embedding: Embedding,
        nn.Conv1d: _ops.Conv1d,
        nn.Conv2d: _ops.Conv2d,
        nn.ConvTranspose2d: _ops.ConvTranspose2d,
        nn.LayerNorm: _ops.LayerNorm,
        nn.GroupNorm: _ops.GroupNorm,
        nn.BatchNorm2d: _ops.BatchNorm2d,
        RMSNorm: DiffusersNorm,
        Qwen3RMSNorm: QwenNorm,
    }


def swap_leaves(network: nn.Module, cast: bool = False) -> nn.Module:
    """Swap in place and return `network`. `cast`: weights are stored in another dtype than activations come in."""
    table = _replacements()
    for module in network.modules():
        replacement = table.get(type(module))
        if replacement is None:
            continue
        module.__class__ = replacement
        if not hasattr(module, "bias"):
            module.register_parameter("bias", None)  # the host reads .bias of every leaf
        if cast:
            module.comfy_cast_weights = True
    return network


def unswapped(network: nn.Module) -> list[str]:
    """Names of leaves with weights that the host could not stream: must be empty."""
    return [
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if not hasattr(module, "comfy_cast_weights")
        and any(True for _ in module.parameters(recurse=False))
        and not any(True for child in module.children() for _ in child.parameters())
    ]


def carry_loose_tensors(patcher, device: torch.device, *_) -> None:
    """Move what no castable leaf owns to `device`: a partial load of the host leaves it behind."""
    for module in patcher.model.modules():
        if hasattr(module, "comfy_cast_weights"):
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device != device:
                setattr(module, name, nn.Parameter(parameter.to(device), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.device != device:
                setattr(module, name, buffer.to(device))


def manage(
    model: nn.Module, load_device, offload_device, recipe: tuple[Callable, tuple], disable_dynamic: bool = False
):
    """A patcher for `model`, whose leaves are swapped.

    `recipe`: (function, arguments) that builds the same patcher again; called with `disable_dynamic=True` when the host
    needs an ordinary patcher (torch.compile, hooks, several GPUs).
    """
    comfy.model_management.archive_model_dtypes(model)
    # Looked up at call time: the host rebinds the name at start-up.
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=offload_device)
    patcher.add_callback(CallbacksMP.ON_LOAD, carry_loose_tensors)
    patcher.cached_patcher_init = recipe
    return patcher


def streamed(patcher) -> int:
    """Bytes of weights that do not stay on the compute device, to be copied there at each use; 0 when all do.

    An ordinary patcher knows this once it is loaded, a dynamic one once every weight has been used.
    """
    if comfy.model_management.is_device_cpu(patcher.load_device):
        return 0
    if not patcher.is_dynamic() and not patcher.model.model_lowvram:
        return 0
    away = patcher.model_size() - patcher.loaded_size()
    # Tensors of no leaf are counted on one side only.
    return away if away > patcher.model_size() // 50 else 0


SUPPORTED = [torch.bfloat16, torch.float32]
NAMED = {"bf16": torch.bfloat16, "fp32": torch.float32}


def supported(dtype: torch.dtype, device) -> torch.dtype:
    """`dtype`, or what to take when a start-up flag made the host name one that these networks overflow in."""
    if dtype in SUPPORTED:
        return dtype
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32


def dtypes(choice: str, table, device) -> tuple[torch.dtype, torch.dtype]:
    """(dtype of the weights, dtype to compute in) for a loader's widget: 'auto' (the host decides), 'bf16', 'fp32'."""
    size = sum(torch.Size(entry.shape).numel() for entry in table.values())
    weights = NAMED.get(choice) or comfy.model_management.unet_dtype(device, size, SUPPORTED)
    weights = supported(weights, device)
    return weights, comfy.model_management.unet_manual_cast(weights, device, SUPPORTED) or weights
