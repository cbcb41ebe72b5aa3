"""One token through the language model with as few operations as there are: what a decode step costs is the dispatch of
small operations, not their arithmetic.

The walk over modules in `LanguageModel.forward` stays the reference: it serves prompts and patched or streamed weights.
Same weights, same formulae here; in small models matrices that take the same input are one matrix. `graphs` repeats
these steps on a GPU.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..models.language import KVCache, LanguageModel, stored_weight

# Joined matrices are copies; beyond this the arithmetic dominates and copies would cost memory for nothing.
JOINED_BYTES = 64 * 2**20


def obstacle(lm: LanguageModel, device: torch.device, dtype: torch.dtype, quantised: bool = False) -> str | None:
    """Why the weights cannot be read directly; None when they can. `quantised`: the layers' matrices may be."""
    if lm.config.hidden_act != "silu":
        return f"its activation is {lm.config.hidden_act}"
    stored = set()
    for name, module in _walked(lm):
        if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
            return f"{name} is patched"
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return f"{name} has hooks or a forward of its own"
        if getattr(module, "weight", None) is None:
            continue
        found = stored_weight(module)
        if found is None or found[0].device != device:
            return f"{name} is a {type(module).__name__} on {module.weight.device}"
        weight, scale = found
        if scale is None and weight.dtype != dtype:
            return f"{name} is stored in {weight.dtype}"
        if name.endswith("_proj"):
            stored.add(weight.dtype)
    if stored - {dtype} and not (quantised and len(stored) == 1):
        return f"its matrices are stored in {', '.join(sorted(map(str, stored)))}"
    return None


def _walked(lm: LanguageModel):
    """Every module that a step through them would call, with its name."""
    yield "the language model", lm
    yield "its embedding", lm.model.embed_tokens
    yield "its last norm", lm.model.norm
    if lm.lm_head is not None:
        yield "its output matrix", lm.lm_head
    yield from lm.model.layers.named_modules()


def is_small(lm: LanguageModel) -> bool:
    """Whether dispatch is what a step costs, not arithmetic."""
    return sum(p.numel() * p.element_size() for p in lm.model.layers.parameters()) <= JOINED_BYTES


class Stepper:
    """Decode steps of one run: weights, rotary tables and cache are looked up once."""

    def __init__(self, lm: LanguageModel, cache: KVCache, positions: torch.Tensor, mask: torch.Tensor | None):
        """`positions` (B, total): of all tokens that will be fed. `mask` (B, 1, 1, keys), of the whole run, or None.

        The cache is this run's alone from here on: keys may be kept in another order.
        """
        config, self.begin, self.mask = lm.config, cache.filled, mask
        self.width, self.rows = config.head_dim, len(positions)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.eps, self.final = config.rms_norm_eps, lm.model.norm.weight
        self.eps_tensor = torch.tensor(self.eps, device=self.final.device)
        join = is_small(lm)
        # In bfloat16 a product of weights would be rounded elsewhere than in the modules.
        self.pairs = _pairs(self.width).to(positions.device) if join and self.final.dtype == torch.float32 else None
        self.layers = [_Layer(layer, join, self.heads, self.kv_heads, self.pairs) for layer in lm.model.layers]
        self.stores = [(store[0], store[1]) for store in cache.data]
        cos, sin = (table[:, :, None] for table in lm.model.rotary_emb(cache.data, positions))
        half = self.width // 2
        if self.pairs is not None:
            cache.data[:, 0, ..., : cache.filled, :] = cache.data[:, 0, ..., : cache.filled, self.pairs]
            self.tables = (torch.complex(cos[..., :half], sin[..., :half]),)
        else:
            # x * cos + (x turned by half) * sin, the turn's sign put into the table
            self.tables = (cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1))

    def __call__(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """(B, 1, D) embeddings of the token that is fed as the `step`-th -> (B, 1, D) after the final norm."""
        rows, heads, kv, width, mask = self.rows, self.heads, self.kv_heads, self.width, self._mask(step)
        x = x[:, 0]
        for layer, store in zip(self.layers, self.stores, strict=True):
            inward, v = layer.heads_of(self._norm(x, layer.before))
            turned = self._turned(self._norm(inward.view(rows, heads + kv, width), layer.of_heads), step)
            q, k = turned.split((heads, kv), dim=1)
            keys, values = self._kept(store, k, v.view(rows, kv, width), step)
            out = F.scaled_dot_product_attention(q.view(rows, kv, heads // kv, width), keys, values, mask)
            # Not a view: what attention gives is laid out as its backend likes, heads first in most of them.
            x = x + torch.mm(out.reshape(rows, heads * width), layer.out)
            x = x + layer.mlp(self._norm(x, layer.after))
        return self._norm(x, self.final)[:, None]

    def _mask(self, step: int) -> torch.Tensor | None:
        """What the token that is fed may look at."""
        return None if self.mask is None else self.mask[..., : self.begin + step + 1]

    def _kept(self, store, k: torch.Tensor, v: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Put away (B, kv_heads, width) of one token; give what is to be looked at, (B, kv_heads, keys, width)."""
        (keys, values), place = store, self.begin + step
        keys.select(2, place).copy_(k)
        values.select(2, place).copy_(v)
        return keys.narrow(2, 0, place + 1), values.narrow(2, 0, place + 1)

    def _turned(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """(B, heads, width) turned by the step's position."""
        return self.rotated(x, *(table[:, step] for table in self.tables))

    def rotated(self, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """(B, heads, width) turned by what `tables` say of a position."""
        if second is not None:
            return x * first + x.roll(self.width // 2, -1) * second
        plane = torch.view_as_complex(x.view(*x.shape[:2], -1, 2))
        return torch.view_as_real(plane * first).view(x.shape)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Statistics in float32, as in the modules."""
        if x.dtype != torch.float32:
            return weight * F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)
        # The same with half the operations; another last bit, which bfloat16 would round to another number.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        x = x * torch.addcmul(self.eps_tensor, length, length, value=1 / x.shape[-1]).rsqrt_()
        return x if weight is None else x * weight


def _pairs(width: int) -> torch.Tensor:
    """Which of a head's numbers come one after the other so that those turned together are neighbours."""
    half = torch.arange(width // 2)
    return torch.stack([half, half + width // 2], dim=-1).flatten()


class _Layer:
    """Matrices as `torch.mm` takes them. `before`, `after`: weights of the norms, None where the matrices hold them."""

    def __init__(self, layer: nn.Module, join: bool, heads: int, kv_heads: int, pairs: torch.Tensor | None):
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.of_heads = torch.stack([attention.q_norm.weight] * heads + [attention.k_norm.weight] * kv_heads)
        q, k, v = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
        inward, gates = [q, k, v], [mlp.gate_proj.weight, mlp.up_proj.weight]
        if pairs is not None:
            q, k = (weight.unflatten(0, (-1, len(pairs)))[:, pairs].flatten(0, 1) for weight in (q, k))
            inward, gates = [torch.cat([q, k, v]) * self.before], [torch.cat(gates) * self.after]
            self.of_heads = self.of_heads[:, pairs]
            self.before = self.after = None
        elif join:
            inward, gates = [torch.cat(inward)], [torch.cat(gates)]
        self.inward, self.gates = [weight.t() for weight in inward], [weight.t() for weight in gates]
        self.out, self.down = attention.o_proj.weight.t(), mlp.down_proj.weight.t()
        self.sizes = (len(q) + len(k), len(v))

    def heads_of(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys side by side, and values."""
        if len(self.inward) == 1:
            return torch.mm(x, self.inward[0]).split(self.sizes, dim=1)
        q, k, v = (torch.mm(x, weight) for weight in self.inward)
        return torch.cat([q, k], dim=-1), v

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.gates) == 1:
            gate, up = torch.mm(x, self.gates[0]).chunk(2, dim=-1)
        else:
            gate, up = (torch.mm(x, weight) for weight in self.gates)
        return torch.mm(F.silu(gate) * up, self.down)
