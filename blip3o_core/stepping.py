"""One token through the language model with as few operations as there are: what a decode step costs on a CPU is the
dispatch of small operations, not their arithmetic.

The walk over modules in `LanguageModel.forward` stays the reference: it serves prompts, patched or streamed weights and
other devices. Same weights, same formulae here; matrices that take the same input are one matrix.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .language import KVCache, LanguageModel

# Joined matrices are copies; beyond this the arithmetic dominates and copies would cost memory for nothing.
JOINED_BYTES = 64 * 2**20
# Classes that `nodes/host/offload.py` swaps in; the host's quantised ones have other names.
STAND_INS = ("Linear", "QwenNorm")


def obstacle(lm: LanguageModel, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the weights cannot be read directly; None when they can."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    if device.type != "cpu":
        return f"it runs on {device.type}"
    if lm.config.hidden_act != "silu":
        return f"its activation is {lm.config.hidden_act}"
    for name, module in _walked(lm):
        if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
            return f"{name} is patched"
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return f"{name} has hooks or a forward of its own"
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        # A host's stand-ins are subclasses of the plain classes, and add nothing but where weights come from.
        plain = type(module) in (nn.Linear, Qwen3RMSNorm) or type(module).__name__ in STAND_INS
        if not plain or weight.device != device or getattr(module, "bias", None) is not None:
            return f"{name} is a {type(module).__name__} on {weight.device}"
        if weight.dtype != dtype:
            return f"{name} is stored in {weight.dtype}"
    return None


def _walked(lm: LanguageModel):
    """Every module that a step through them would call, with its name."""
    yield "the language model", lm
    yield "its last norm", lm.model.norm
    yield from lm.model.layers.named_modules()


class Stepper:
    """Decode steps of one run: weights, rotary tables and cache are looked up once."""

    def __init__(self, lm: LanguageModel, cache: KVCache, positions: torch.Tensor, mask: torch.Tensor | None):
        """`positions` (B, total): of all tokens that will be fed. `mask` (B, 1, 1, keys), of the whole run, or None."""
        config, self.cache, self.mask = lm.config, cache, mask
        self.width = config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.rows, self.eps, self.final = len(positions), config.rms_norm_eps, lm.model.norm.weight
        weights = sum(p.numel() * p.element_size() for p in lm.model.layers.parameters())
        join = weights <= JOINED_BYTES
        self.layers = [_Layer(layer, join, self.heads, self.kv_heads) for layer in lm.model.layers]
        cos, sin = lm.model.rotary_emb(cache.data, positions)
        # x * cos + (x turned by half) * sin, the turn's sign put into the table
        half = self.width // 2
        self.cos, self.sin = cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)[:, :, None]

    def __call__(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """(B, 1, D) embeddings of the token that is fed as the `step`-th -> (B, 1, D) after the final norm."""
        rows, heads, kv, width, end = self.rows, self.heads, self.kv_heads, self.width, self.cache.filled + 1
        cos, sin = self.cos[:, step], self.sin[:, step]
        mask = None if self.mask is None else self.mask[..., :end]
        x = x[:, 0]
        for layer, store in zip(self.layers, self.cache.data, strict=True):
            inward, v = layer.heads_of(self._norm(x, layer.before))
            turned = self._norm(inward.view(rows, heads + kv, width), layer.of_heads)
            turned = turned * cos + turned.roll(width // 2, -1) * sin
            store[0, :, :, end - 1] = turned[:, heads:]
            store[1, :, :, end - 1] = v.view(rows, kv, width)
            out = F.scaled_dot_product_attention(
                turned[:, :heads].view(rows, kv, heads // kv, width), store[0, :, :, :end], store[1, :, :, :end], mask
            )
            x = x + F.linear(out.reshape(rows, heads * width), layer.out)
            x = x + layer.mlp(self._norm(x, layer.after))
        self.cache.filled = end
        return self._norm(x, self.final)[:, None]

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Statistics in float32, as in the modules."""
        return weight * F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)


class _Layer:
    def __init__(self, layer: nn.Module, join: bool, heads: int, kv_heads: int):
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        norms = [attention.q_norm.weight] * heads + [attention.k_norm.weight] * kv_heads
        self.of_heads, self.out, self.down = torch.stack(norms), attention.o_proj.weight, mlp.down_proj.weight
        self.inward = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        self.keys_end = len(self.inward[0]) + len(self.inward[1])
        self.gates = [mlp.gate_proj.weight, mlp.up_proj.weight]
        if join:
            self.inward, self.gates = [torch.cat(self.inward)], [torch.cat(self.gates)]

    def heads_of(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys side by side, and values."""
        if len(self.inward) == 1:
            all_three = F.linear(x, self.inward[0])
            return all_three[:, : self.keys_end], all_three[:, self.keys_end :]
        q, k, v = (F.linear(x, weight) for weight in self.inward)
        return torch.cat([q, k], dim=-1), v

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.gates) == 1:
            gate, up = F.linear(x, self.gates[0]).chunk(2, dim=-1)
        else:
            gate, up = (F.linear(x, weight) for weight in self.gates)
        return F.linear(F.silu(gate) * up, self.down)
