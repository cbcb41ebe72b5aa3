"""The language model: transformers' Qwen3 modules, run by our own loop over a preallocated KV cache.

- The modules and their names are transformers' (checkpoints, LoRA tools and training speak them); only the walk over
  the layers is ours, so that the cache is one fixed buffer and no cache class of a transformers release is needed.
- The diffusion connector hangs on the inner model, where the checkpoint has it.
- Weights are read through the modules' own forward or `leaf_weight`, so a host may stream or patch them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import Blip3oError
from ..prompts.vocabulary import CodesId, Vocabulary
from .connector import build_connector


def leaf_weight(module: nn.Module, like: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
    """Rows of the module's weight on `like`'s device and dtype, through `weight_for` where a host's leaf offers it."""
    if hasattr(module, "weight_for"):
        return module.weight_for(like, rows)
    return module.weight[rows].to(device=like.device, dtype=like.dtype)


@contextmanager
def any_length(device: torch.device) -> Iterator[None]:
    """For attention whose number of keys differs at every call.

    On recent cards torch prefers cuDNN's attention, which makes a plan for every new shape: measured at 44 ms on an
    H200, where the attention itself takes 0.05. The other backends need no plan.
    """
    if device.type != "cuda":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def stored_weight(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """A leaf's weight as it is stored, and where it is quantised the scale of its rows, or one scale for all.

    None where the weight alone does not give the leaf's output: patches, a bias, weights that a host streams in. A
    host's leaf says so itself, by a method `stored`.
    """
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    if hasattr(module, "stored"):
        return module.stored()
    # An adapter's class may well be a subclass (peft's Linear): these types and no others.
    plain = type(module) in (nn.Linear, nn.Embedding, Qwen3RMSNorm) and getattr(module, "bias", None) is None
    return (module.weight, None) if plain else None


class KVCache:
    """Keys and values of every layer, (layers, 2, B, kv_heads, length, head_dim), allocated once per run."""

    def __init__(self, config, batch: int, length: int, device, dtype):
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, length, config.head_dim)
        self.data = torch.zeros(shape, device=device, dtype=dtype)
        self.filled = 0

    @staticmethod
    def nbytes(config, batch: int, length: int, dtype: torch.dtype) -> int:
        """Bytes that a cache of this size takes."""
        numbers = config.num_hidden_layers * 2 * batch * config.num_key_value_heads * length * config.head_dim
        return numbers * dtype.itemsize

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (B, kv_heads, S, head_dim) behind the filled part; return views of everything up to there."""
        end = self.filled + keys.shape[2]
        store = self.data[layer]
        store[0, :, :, self.filled : end] = keys
        store[1, :, :, self.filled : end] = values
        return store[0, :, :, :end], store[1, :, :, :end]


@dataclass(frozen=True)
class PromptFeatures:
    """Features of the reference images, put in the place of their tokens in a prompt (docs/reference.md 6.4).

    The same in every row of a batch.
    """

    values: torch.Tensor  # (n, width) of the image tokenizer
    behind: int  # ids that follow them in the prompt

    def span(self, length: int) -> slice:
        """Their positions in prompts of `length`, padded on the left."""
        return slice(length - self.behind - len(self.values), length - self.behind)


@dataclass(frozen=True)
class ConnectorWidths:
    """What the connectors map: hidden states, and in checkpoints that have those connectors what references bring."""

    condition: int  # of the cross-attention tokens, to which all but the last lead
    reference_latents: int | None = None  # channels
    reference_features: int | None = None  # of the image tokenizer; they become embeddings of the prompt


class LanguageModel(nn.Module):
    """Qwen3 with the diffusion connector, for one checkpoint's vocabulary and token grid."""

    def __init__(
        self,
        config,
        vocabulary: Vocabulary,
        grid: tuple[int, int],
        codes_id: CodesId,
        widths: ConnectorWidths,
        tied: bool,
    ):
        """`config`: a transformers Qwen3Config. `tied`: the embedding is the output matrix, too."""
        from transformers import Qwen3Model

        super().__init__()
        if config.use_sliding_window:
            raise Blip3oError(
                "config.json sets use_sliding_window, which BLIP3o-NEXT models do not use and this program does not "
                "support. Set it to false, or use the config.json that belongs to the checkpoint."
            )
        self.config, self.vocabulary, self.grid, self.codes_id = config, vocabulary, grid, codes_id
        self.model = Qwen3Model(config)
        self.model.diffusion_connector = build_connector(config.hidden_size, widths.condition)
        if widths.reference_latents is not None:
            self.model.und_image_vae_connector = build_connector(widths.reference_latents, widths.condition)
        if widths.reference_features is not None:
            self.model.tar_siglip_features_connector = build_connector(widths.reference_features, config.hidden_size)
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def connector(self) -> nn.Module:
        return self.model.diffusion_connector

    @property
    def reference_connector(self) -> nn.Module | None:
        """For the latents of reference images; None when the checkpoint has none."""
        return getattr(self.model, "und_image_vae_connector", None)

    @property
    def num_tokens(self) -> int:
        """Image tokens of one image, H * W."""
        return self.grid[0] * self.grid[1]

    def head_weight(self, like: torch.Tensor, image_tokens_only: bool) -> torch.Tensor:
        """Output matrix on `like`'s device: (K, D) for image tokens only, else (vocabulary, D)."""
        rows = self._image_rows if image_tokens_only else slice(None)
        return leaf_weight(self.lm_head or self.model.embed_tokens, like, rows)

    def code_embedding(self, like: torch.Tensor) -> torch.Tensor:
        """(K, D) embeddings of the image tokens on `like`'s device."""
        return leaf_weight(self.model.embed_tokens, like, self._image_rows)

    @property
    def _image_rows(self) -> slice:
        return slice(self.vocabulary.image_start, self.vocabulary.image_start + self.vocabulary.num_codes)

    def embed(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(B, S) ids -> (B, S, D)."""
        return self.model.embed_tokens(ids).to(dtype)

    def embed_prompts(self, ids: torch.Tensor, dtype: torch.dtype, features: PromptFeatures | None) -> torch.Tensor:
        """(B, S) ids, padded on the left -> (B, S, D), with `features` in their place."""
        embeds = self.embed(ids, dtype)
        if features is None:
            return embeds
        values = self.model.tar_siglip_features_connector(features.values.to(embeds)).to(dtype)
        embeds[:, features.span(ids.shape[1])] = values
        return embeds

    def forward(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """(B, S, D) embeddings at (B, S) positions -> (B, S, D) hidden states after the final norm.

        `mask`: bool (B or 1, 1, S, keys), True where a query may look; None is causal (S > 1) or everything (S = 1).
        `cache`: keys and values of earlier tokens; the new ones are appended.
        """
        x = embeds
        rope = self.model.rotary_emb(x, positions)
        for index, layer in enumerate(self.model.layers):
            x = x + self._attend(index, layer.self_attn, layer.input_layernorm(x), rope, mask, cache)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        if cache is not None:
            cache.filled += embeds.shape[1]
        return self.model.norm(x)

    def _attend(self, index, attn, x, rope, mask, cache) -> torch.Tensor:
        from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

        batch, steps, _ = x.shape
        width, kv_heads = self.config.head_dim, self.config.num_key_value_heads
        q = attn.q_norm(attn.q_proj(x).view(batch, steps, -1, width)).transpose(1, 2)
        k = attn.k_norm(attn.k_proj(x).view(batch, steps, -1, width)).transpose(1, 2)
        v = attn.v_proj(x).view(batch, steps, -1, width).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, *rope)
        if cache is not None:
            k, v = cache.append(index, k, v)
        if steps == 1:
            # Heads that share keys become queries of one head: no repeated keys, no causal mask needed.
            out = F.scaled_dot_product_attention(q.view(batch, kv_heads, -1, width), k, v, attn_mask=mask)
            out = out.reshape(batch, 1, -1)
        else:
            groups = q.shape[1] // kv_heads
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
            out = out.transpose(1, 2).reshape(batch, steps, -1)
        return attn.o_proj(out)
