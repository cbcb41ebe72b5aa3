"""SANA with two more inputs: images beside the one that is predicted, and what a run keeps of its condition.

- Both come with the call, so that the network itself never changes: runs that overlap, in threads or in each other's
  callbacks, share one network and nothing else.
- Without them it is diffusers' forward. With them the walk over its modules is ours; modules and names are diffusers'.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SanaTransformer2DModel


class KeptCondition:
    """What the network computes from the condition alone, which is the same in every step of a run: computed once.

    That is the projection of the condition and, in every block, the keys and values of cross-attention: 730 tokens of
    the published model next to 1,024 of a latent. The price is memory, 3 * layers * tokens * width numbers for each row
    (keys before and after their norm, and values): 0.39 GB for one guided image of the published model in bfloat16.
    One object serves one condition of one run.
    """

    def __init__(self):
        self._tokens: torch.Tensor | None = None
        self._keys_values: dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def project(self, network: "DiffusionTransformer", condition: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> (B, N, D) as cross-attention reads it."""
        if self._tokens is None:
            self._tokens = network.project_condition(condition)
        return self._tokens

    def keys_values(self, attn: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, D) each, of one block's cross-attention, after the condition is projected."""
        if attn not in self._keys_values:
            keys, values = attn.to_k(self._tokens), attn.to_v(self._tokens)
            self._keys_values[attn] = keys if attn.norm_k is None else attn.norm_k(keys), values
        return self._keys_values[attn]

    @staticmethod
    def serves(network) -> bool:
        """Whether a network takes one. A compiled network does not, nor does anything that stands in for SANA."""
        blocks = getattr(network, "transformer_blocks", ())
        compiled = any(getattr(each, "_compiled_call_impl", None) is not None for each in (network, *blocks))
        own = all(isinstance(block.attn2.processor, CrossAttention) for block in blocks)
        return isinstance(network, DiffusionTransformer) and own and not compiled


class CrossAttention:
    """diffusers' processor, which takes a KeptCondition in the place of the condition as well."""

    def __init__(self, plain):
        self._plain = plain

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **more):
        if not isinstance(encoder_hidden_states, KeptCondition):
            return self._plain(attn, hidden_states, encoder_hidden_states, attention_mask, **more)
        keys, values = encoder_hidden_states.keys_values(attn)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, keys.shape[1], len(keys))
            attention_mask = attention_mask.view(len(keys), attn.heads, -1, attention_mask.shape[-1])
        query = attn.to_q(hidden_states)
        query = query if attn.norm_q is None else attn.norm_q(query)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, keys, values))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        out = out.transpose(1, 2).flatten(2).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


class DiffusionTransformer(SanaTransformer2DModel):
    """SANA. `add_cross_attention` completes a network that was built from its config."""

    def add_cross_attention(self) -> "DiffusionTransformer":
        for block in self.transformer_blocks:
            block.attn2.set_processor(CrossAttention(block.attn2.processor))
        return self

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        beside: Sequence[torch.Tensor] = (),
        kept: KeptCondition | None = None,
        **more: Any,
    ):
        """As diffusers' forward, for `hidden_states` (B, C, h, w) under `encoder_hidden_states` (B, N, width).

        `beside`: images (B, C, h, any width) to the right, each with the positions of an image of its own. The
        prediction is of the first image alone. `kept`: of the run whose condition this is.
        """
        if not beside and kept is None:
            return super().forward(
                hidden_states,
                encoder_hidden_states,
                timestep,
                encoder_attention_mask=encoder_attention_mask,
                **more,
            )
        rows, _, height, width = hidden_states.shape
        lines, patch = height // self.config.patch_size, self.config.patch_size
        parts = [self.patch_embed(part).unflatten(1, (lines, -1)) for part in (hidden_states, *beside)]
        x = parts[0].flatten(1, 2) if len(parts) == 1 else torch.cat(parts, dim=2).flatten(1, 2)
        modulation, embedded_timestep = self.time_embed(timestep, batch_size=rows, hidden_dtype=x.dtype)
        if encoder_attention_mask is not None and encoder_attention_mask.ndim == 2:
            encoder_attention_mask = ((1 - encoder_attention_mask.to(hidden_states.dtype)) * -10000.0)[:, None]
        condition: torch.Tensor | KeptCondition
        if kept is None:
            condition = self.project_condition(encoder_hidden_states)
        else:
            kept.project(self, encoder_hidden_states)
            condition = kept
        columns = sum(part.shape[2] for part in parts)
        for block in self.transformer_blocks:
            inputs = (x, None, condition, encoder_attention_mask, modulation, lines, columns)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *inputs)
            else:
                x = block(*inputs)
        x = self.proj_out(self.norm_out(x, embedded_timestep, self.scale_shift_table))
        x = x.view(rows, lines, columns, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
        return (x.reshape(rows, -1, lines * patch, columns * patch)[..., :width],)

    def project_condition(self, condition: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> (B, N, D) as cross-attention reads it."""
        return self.caption_norm(self.caption_projection(condition))
