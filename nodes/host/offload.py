"""Swap the leaves of a library network for ones that ComfyUI can stream, cast and patch, and give it a patcher.

ComfyUI moves weights leaf by leaf, and only through modules with its cast operations. A leaf without them stays on the
CPU when a model does not fit, and the run fails. So the swap must be complete: `unswapped` lists what was missed.
Parameters and buffers outside of leaves (SANA's scale_shift_table, rotary tables) are a few kilobytes. They move to the
device whenever ComfyUI loads the model, wholly or in part.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

from ...blip3o_core.weights.tensors import COMPUTE_DTYPES

_ops: Any = comfy.ops.disable_weight_init


def is_patched(leaf: nn.Module) -> bool:
    """Whether the host patches the leaf's weights as they are used, as it does with LoRAs of models that do not fit."""
    return bool(getattr(leaf, "weight_function", None) or getattr(leaf, "bias_function", None))


class _Stored:
    """A leaf whose weight the library may read in place."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def stored(self) -> tuple[torch.Tensor, None] | None:
        """(weight, no scales); None if the weight is streamed in or the leaf is patched or has a bias."""
        # The address of a weight that ComfyUI streams in changes.
        return None if hasattr(self, "_v") or self.bias is not None or is_patched(self) else (self.weight, None)


class _Readable(_Stored):
    """A leaf whose weight is read outside of its `forward`: the language model's output matrix, a codebook."""

    def weight_for(self, like: torch.Tensor, rows: slice) -> torch.Tensor:
        """Rows of the weight with its patches, in the device and dtype of `like`. Valid for a whole run."""
        weight, bias, stream = comfy.ops.cast_bias_weight(self, dtype=like.dtype, device=like.device, offloadable=True)
        # The next leaf overwrites the buffer of a weight that was streamed in.
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
    """The RMS norm of diffusers and of Qwen3 with ComfyUI's casts: float32 statistics, weight in the input's dtype."""

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
    """Swap in place and return `network`. `cast`: the dtype of the weights differs from that of the activations."""
    table = _replacements()
    for module in network.modules():
        replacement = table.get(type(module))
        if replacement is None:
            continue
        module.__class__ = replacement
        if not hasattr(module, "bias"):
            module.register_parameter("bias", None)  # ComfyUI reads .bias of every leaf
        if cast:
            module.comfy_cast_weights = True
    return network


def unswapped(network: nn.Module) -> list[str]:
    """Names of leaves with weights that ComfyUI cannot stream. Must be empty."""
    return [
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if not hasattr(module, "comfy_cast_weights")
        and any(True for _ in module.parameters(recurse=False))
        and not any(True for child in module.children() for _ in child.parameters())
    ]


def carry_loose_tensors(patcher, device: torch.device, *_) -> None:
    """Move tensors outside of castable leaves to `device`: a partial load leaves them behind."""
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

    `recipe`: (function, arguments) that builds the same patcher again. ComfyUI calls it with `disable_dynamic=True` if
    it needs an ordinary patcher (torch.compile, hooks, several GPUs).
    """
    comfy.model_management.archive_model_dtypes(model)
    # Looked up at call time: ComfyUI rebinds the name at start-up.
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=offload_device)
    patcher.add_callback(CallbacksMP.ON_LOAD, carry_loose_tensors)
    patcher.cached_patcher_init = recipe
    return patcher


def streamed(patcher) -> int:
    """Bytes of weights that are copied to the compute device at each use; 0 if all of them stay there.

    Known once an ordinary patcher is loaded, or once a dynamic one has used every weight.
    """
    if comfy.model_management.is_device_cpu(patcher.load_device):
        return 0
    if not patcher.is_dynamic() and not patcher.model.model_lowvram:
        return 0
    away = patcher.model_size() - patcher.loaded_size()
    # Tensors outside of leaves are counted on one side only.
    return away if away > patcher.model_size() // 50 else 0


NAMED = COMPUTE_DTYPES
SUPPORTED = list(NAMED.values())


def supported(dtype: torch.dtype, device) -> torch.dtype:
    """`dtype`, or a replacement if a start-up flag of ComfyUI asks for one that these networks overflow in."""
    if dtype in SUPPORTED:
        return dtype
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32


def dtypes(choice: str, table, device) -> tuple[torch.dtype, torch.dtype]:
    """(dtype of the weights, compute dtype) for the widget dtype: 'auto' (ComfyUI decides), 'bf16' or 'fp32'."""
    size = sum(torch.Size(entry.shape).numel() for entry in table.values())
    weights = NAMED.get(choice) or comfy.model_management.unet_dtype(device, size, SUPPORTED)
    weights = supported(weights, device)
    return weights, comfy.model_management.unet_manual_cast(weights, device, SUPPORTED) or weights
