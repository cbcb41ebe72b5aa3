"""One token through the language model with as few operations as possible: a decode step of a small model costs the
dispatch of small operations, not their arithmetic.

`LanguageModel.forward` stays the reference: it serves prompts, and patched or streamed weights. Same weights, same
formulae here; in small models matrices that take the same input are joined into one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..models.language import KVCache, LanguageModel, stored_weight
from .interface import Callback, Decoded, Prefilled
from .sampling import Chooser
from .step_by_step import decode_step_by_step, mask_of

# Joined matrices are copies; beyond this the arithmetic dominates and copies would cost memory for nothing.
JOINED_BYTES = 64 * 2**20


def decode_directly(prefilled: Prefilled, choose: Chooser, callback: Callback | None) -> Decoded:
    """Engine "direct"."""
    step = DirectStep(prefilled.lm, prefilled.cache, prefilled.positions, mask_of(prefilled))
    return decode_step_by_step(prefilled, choose, callback, step)


def why_not_direct(lm: LanguageModel, device: torch.device, dtype: torch.dtype, quantised: bool = False) -> str | None:
    """Why the weights cannot be read as they are stored; None when they can. `quantised`: matrices of layers may be."""
    if lm.config.hidden_act != "silu":
        return f"the model's activation is {lm.config.hidden_act}, not silu"
    stored = set()
    for name, module in _modules_of_a_step(lm):
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return f"{name} has hooks or a replaced forward"
        if getattr(module, "weight", None) is None:
            continue
        found = stored_weight(module)
        if found is None:
            return f"{name} is patched or streamed ({type(module).__name__})"
        if found[0].device != device:
            return f"{name} is on {found[0].device}, not on {device}"
        weight, scale = found
        if scale is None and weight.dtype != dtype:
            return f"{name} is stored in {weight.dtype}, not in {dtype}"
        if name.endswith("_proj"):
            stored.add(weight.dtype)
    if stored - {dtype} and not (quantised and len(stored) == 1):
        return f"the layers' matrices are stored in {', '.join(sorted(map(str, stored)))}, not in {dtype}"
    return None


def _modules_of_a_step(lm: LanguageModel) -> Iterator[tuple[str, nn.Module]]:
    """Every module that a forward pass would call, with its name."""
    yield "the language model", lm
    yield "the embedding", lm.model.embed_tokens
    yield "the last norm", lm.model.norm
    if lm.lm_head is not None:
        yield "the output matrix", lm.lm_head
    yield from lm.model.layers.named_modules()


def is_small(lm: LanguageModel) -> bool:
    """Whether a step costs dispatch, not arithmetic."""
    return sum(p.numel() * p.element_size() for p in lm.model.layers.parameters()) <= JOINED_BYTES


class DirectStep:
    """Decode steps of one run: weights, rotary tables and cache are looked up once.

    Rotary embedding turns the numbers j and j + W/2 of a head of width W together. It is computed in one of two forms:
    as complex numbers where `pair_order` has made those two neighbours, else as x * cos + roll(x, W/2) * sin.
    """

    def __init__(self, lm: LanguageModel, cache: KVCache, positions: torch.Tensor, mask: torch.Tensor | None):
        """`positions` (R, T) of all tokens to come. `mask` (R, 1, 1, S + T) bool, or None.

        The cache belongs to this run alone from here on: its keys may be reordered.
        """
        config, self.begin, self.mask = lm.config, cache.filled, mask
        self.width, self.rows = config.head_dim, len(positions)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.eps, self.final = config.rms_norm_eps, lm.model.norm.weight
        self.eps_tensor = torch.tensor(self.eps, device=self.final.device)
        join = is_small(lm)
        # In bfloat16 a product of weights would be rounded elsewhere than in the modules.
        fold = join and self.final.dtype == torch.float32
        pairs = pair_order(self.width).to(positions.device) if fold else None
        self.layers = [PackedLayer.of(layer, join, pairs) for layer in lm.model.layers]
        self.stores = [(store[0], store[1]) for store in cache.data]
        cos, sin = (table[:, :, None] for table in lm.model.rotary_emb(cache.data, positions))  # (R, T, 1, W)
        half = self.width // 2
        if pairs is not None:
            cache.data[:, 0, ..., : cache.filled, :] = cache.data[:, 0, ..., : cache.filled, pairs]
            self.tables: tuple[torch.Tensor, ...] = (torch.complex(cos[..., :half], sin[..., :half]),)
        else:
            # The sign of the rolled half is put into the table.
            self.tables = (cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1))

    def __call__(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """(R, 1, D) embeddings of the token that is fed as the `step`-th -> (R, 1, D) after the final norm."""
        rows, heads, kv, width, mask = self.rows, self.heads, self.kv_heads, self.width, self._mask(step)
        x = x[:, 0]  # (R, D)
        for layer, store in zip(self.layers, self.stores, strict=True):
            qk, v = layer.project_qkv(self._norm(x, layer.input_norm))
            qk = self._rotated(self._norm(qk.view(rows, heads + kv, width), layer.qk_norm), step)
            q, k = qk.split((heads, kv), dim=1)
            keys, values = self._cached(store, k, v.view(rows, kv, width), step)  # (R, kv, S + step + 1, W)
            # Heads that share keys become queries of one head.
            out = F.scaled_dot_product_attention(q.view(rows, kv, heads // kv, width), keys, values, mask)
            # Not a view: attention lays its result out as its backend likes, heads first in most of them.
            x = x + torch.mm(out.reshape(rows, heads * width), layer.out)
            x = x + layer.mlp(self._norm(x, layer.mlp_norm))
        return self._norm(x, self.final)[:, None]

    def _mask(self, step: int) -> torch.Tensor | None:
        """What the token that is fed may look at."""
        return None if self.mask is None else self.mask[..., : self.begin + step + 1]

    def _cached(self, store, k: torch.Tensor, v: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (R, kv_heads, W) of one token; return all keys and values to look at, (R, kv_heads, keys, W)."""
        (keys, values), index = store, self.begin + step
        keys.select(2, index).copy_(k)
        values.select(2, index).copy_(v)
        return keys.narrow(2, 0, index + 1), values.narrow(2, 0, index + 1)

    def _rotated(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """(R, heads, W) with the rotary embedding of the step's position."""
        return self.rotate(x, *(table[:, step] for table in self.tables))

    def rotate(self, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """(R, heads, W) with the rotary embedding of a position, given as its rows of `tables`."""
        if second is not None:
            return x * first + x.roll(self.width // 2, -1) * second
        plane = torch.view_as_complex(x.view(*x.shape[:2], -1, 2))
        return torch.view_as_real(plane * first).view(x.shape)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """RMS norm with float32 statistics, as in the modules."""
        if x.dtype != torch.float32:
            return weight * F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)
        # The same with half the operations; another last bit, which bfloat16 would round to another number.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        x = x * torch.addcmul(self.eps_tensor, length, length, value=1 / x.shape[-1]).rsqrt_()
        return x if weight is None else x * weight


def pair_order(width: int) -> torch.Tensor:
    """Order of a head's numbers in which the two that rotary embedding turns together are neighbours."""
    half = torch.arange(width // 2)
    return torch.stack([half, half + width // 2], dim=-1).flatten()


@dataclass(frozen=True)
class PackedLayer:
    """One layer's weights as `torch.mm` takes them, (in, out). A norm is None where the matrices hold its weight."""

    input_norm: torch.Tensor | None
    mlp_norm: torch.Tensor | None
    qk_norm: torch.Tensor  # (heads + kv_heads, W)
    qkv: list[torch.Tensor]  # one joined matrix, or three
    gate_up: list[torch.Tensor]  # one joined matrix, or two
    out: torch.Tensor
    down: torch.Tensor
    split: tuple[int, int]  # widths of queries with keys, and of values

    @classmethod
    def of(cls, layer: nn.Module, join: bool, pairs: torch.Tensor | None) -> "PackedLayer":
        """`pairs`: see `pair_order`; given, norms and order go into the matrices, and the step needs neither."""
        attention, mlp = layer.self_attn, layer.mlp
        input_norm, mlp_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        q, k, v = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
        width = len(attention.q_norm.weight)
        qk_norm = torch.stack(
            [attention.q_norm.weight] * (len(q) // width) + [attention.k_norm.weight] * (len(k) // width)
        )
        qkv, gate_up = [q, k, v], [mlp.gate_proj.weight, mlp.up_proj.weight]
        if pairs is not None:
            q, k = (weight.unflatten(0, (-1, width))[:, pairs].flatten(0, 1) for weight in (q, k))
            qkv, gate_up = [torch.cat([q, k, v]) * input_norm], [torch.cat(gate_up) * mlp_norm]
            qk_norm, input_norm, mlp_norm = qk_norm[:, pairs], None, None
        elif join:
            qkv, gate_up = [torch.cat(qkv)], [torch.cat(gate_up)]
        return cls(
            input_norm=input_norm,
            mlp_norm=mlp_norm,
            qk_norm=qk_norm,
            qkv=[weight.t() for weight in qkv],
            gate_up=[weight.t() for weight in gate_up],
            out=attention.o_proj.weight.t(),
            down=mlp.down_proj.weight.t(),
            split=(len(q) + len(k), len(v)),
        )

    def project_qkv(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, D) -> queries and keys side by side, and values."""
        if len(self.qkv) == 1:
            return torch.mm(x, self.qkv[0]).split(self.split, dim=1)
        q, k, v = (torch.mm(x, weight) for weight in self.qkv)
        return torch.cat([q, k], dim=-1), v

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """(R, D) -> (R, D)."""
        if len(self.gate_up) == 1:
            gate, up = torch.mm(x, self.gate_up[0]).chunk(2, dim=-1)
        else:
            gate, up = (torch.mm(x, weight) for weight in self.gate_up)
        return torch.mm(F.silu(gate) * up, self.down)
