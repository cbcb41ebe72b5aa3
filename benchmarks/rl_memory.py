"""What reinforcement learning of the published shapes needs: computed from the shapes, not measured.

Bytes of one process, for `batch` images per pass:

- `weights_gb`: language model, diffusion transformer and autoencoder in float32. `reference_gb`: a second language
  model, which the adapters switched off replace. `learning_gb`: gradients and AdamW's two moments, float32.
- `rollout_gb`, `render_gb`: the largest step of each, in float32. `update_gb`: what a forward pass keeps for the
  backward pass, see `activation_bytes`, in bfloat16 with autocast, and autocast's copies of the weights that learn.
- `peak_gb`: all that stays, and the largest of the three.

The fused head's logits, the allocator's gaps and the libraries' own memory are not in it.
"""

import torch

from blip3o_core import memory
from blip3o_core.models.autoencoder import compression

from . import models

PROMPT, CELLS = 60, 32  # tokens of a prompt; the side of a latent
RANK = 32


def run(batch: int = 4) -> list[dict]:
    """A row for each way to train the language model."""
    language, transformer = models.shapes(None, render=True)
    autoencoder = models.published_autoencoder()
    config, length = language.config, PROMPT + language.num_tokens
    own = sum(p.numel() for n, p in language.named_parameters() if "connector" not in n)
    adapters = adapter_numbers(config, RANK)
    weights = sum(memory.weight_bytes(one, torch.float32) for one in (language, transformer, autoencoder))
    pixels = (CELLS * compression(autoencoder.config)) ** 2
    codes = language.vocabulary.num_codes
    rollout = memory.lm_decode_bytes(config, batch, length, codes, torch.float32)
    render = max(
        memory.diffusion_bytes(transformer.config, batch, CELLS**2, torch.float32),
        memory.vae_bytes(autoencoder.config, pixels, torch.float32),
    )
    rows = []
    for name, learning, half, checkpointing in (
        ("all weights, float32", own, False, False), ("all weights, bf16", own, True, False),
        ("all weights, bf16, gradient checkpointing", own, True, True), ("LoRA, float32", adapters, False, False),
        ("LoRA, bf16", adapters, True, False), ("LoRA, bf16, gradient checkpointing", adapters, True, True),
    ):  # fmt: skip
        update = activation_bytes(config, batch * length, 2 if half else 4, checkpointing) + 2 * learning * half
        stays = weights + (0 if learning == adapters else 4 * own) + 12 * learning
        rows.append({
            "what learns": name, "batch": batch, "learning_m": learning / 1e6, "weights_gb": weights / 1e9,
            "reference_gb": 0.0 if learning == adapters else 4 * own / 1e9, "learning_gb": 12 * learning / 1e9,
            "rollout_gb": rollout / 1e9, "render_gb": render / 1e9, "update_gb": update / 1e9,
            "peak_gb": (stays + max(rollout, render, update)) / 1e9,
        })  # fmt: skip
    return rows


def operations(steps: int = 5) -> list[dict]:
    """Multiplications and additions for one image, in 10^12: two for each weight and token, four in a backward pass.

    Attention and the autoencoder are not in it.
    """
    language, transformer = models.shapes(None, render=True)
    length = PROMPT + language.num_tokens
    layers = sum(p.numel() for p in language.model.layers.parameters())
    head = language.vocabulary.num_codes * language.config.hidden_size
    whole = language.config.vocab_size * language.config.hidden_size
    sana = sum(p.numel() for p in transformer.parameters())
    rollout = 2 * (layers * length + head * language.num_tokens)
    forward = 2 * (layers * length + whole * language.num_tokens)
    return [
        {"act": "rollout", "tflop_per_image": rollout / 1e12},
        {"act": f"render, {steps} steps without guidance", "tflop_per_image": 2 * sana * CELLS**2 * steps / 1e12},
        {"act": "reference", "tflop_per_image": forward / 1e12},
        {"act": "update", "tflop_per_image": 3 * forward / 1e12},
        {"act": "update, gradient checkpointing", "tflop_per_image": 4 * forward / 1e12},
    ]


def adapter_numbers(config, rank: int) -> int:
    """Numbers of a LoRA on all seven matrices of every layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    sides = [hidden + queries, hidden + keys, hidden + keys, queries + hidden, *[hidden + inner] * 3]
    return config.num_hidden_layers * rank * sum(sides)


def activation_bytes(config, tokens: int, size: int, checkpointing: bool) -> int:
    """What transformers' Qwen3 keeps of `tokens` for the backward pass, with attention that keeps no scores.

    Of each layer: two norms (three widths each), queries and keys before and behind their norm and rotation and in
    attention (four), the values and attention's output, gate, up, the gate's activation and their product. With
    checkpointing the input of each layer, and one layer at a time.
    """
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    layer = 6 * config.hidden_size + 5 * queries + 5 * keys + 4 * config.intermediate_size
    kept = config.num_hidden_layers * config.hidden_size + layer if checkpointing else config.num_hidden_layers * layer
    return tokens * kept * size
