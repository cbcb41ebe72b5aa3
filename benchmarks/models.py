"""The two models that are measured, and the authors' language model on the same weights.

"tiny" is the bundled checkpoint. "full" has the published shapes with random weights, made on the
device; fewer layers on request, so that a CPU can run it.
"""

from dataclasses import dataclass
from typing import Any

import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.models import diffusion_transformer
from blip3o_core.models.autoencoder import build as build_autoencoder
from blip3o_core.models.language import ConnectorWidths, LanguageModel
from blip3o_core.prompts.vocabulary import CodesId, Vocabulary

# Qwen3-1.7B, of which the published 3B checkpoint may be made, and SANA 1.5 1.6B.
LANGUAGE: dict[str, Any] = {
    "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 6144, "vocab_size": 217210, "rms_norm_eps": 1e-6, "max_position_embeddings": 40960,
    "rope_theta": 1000000, "tie_word_embeddings": True,
}  # fmt: skip
CODES, GRID, CROSS_WIDTH = 65536, (27, 27), 2304
TRANSFORMER = {
    "in_channels": 32, "out_channels": 32, "num_attention_heads": 70, "attention_head_dim": 32, "num_layers": 20,
    "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240,
    "caption_channels": CROSS_WIDTH, "mlp_ratio": 2.5, "patch_size": 1, "sample_size": 32, "interpolation_scale": None,
    "qk_norm": "rms_norm_across_heads",
}  # fmt: skip


# DC-AE f32c32, 0.3123e9 parameters.
DC_AE = {
    "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32, "scaling_factor": 0.41407,
    **{f"{side}_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3 for side in ("encoder", "decoder")},
    **{f"{side}_block_out_channels": [128, 256, 512, 512, 1024, 1024] for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": [[], [], [], [5], [5], [5]] for side in ("encoder", "decoder")},
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3], "decoder_layers_per_block": [3] * 6,
    "downsample_block_type": "Conv", "upsample_block_type": "interpolate", "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    name: str
    language: LanguageModel
    transformer: torch.nn.Module | None
    prompt: list[int]
    cells: int  # side of a latent


def tiny(device: torch.device, dtype: torch.dtype) -> Model:
    checkpoint = open_checkpoint(BUNDLED)
    prompt = checkpoint.prompt_encoder.encode("a red circle left of a blue star")
    language, transformer = checkpoint.load_language(dtype), checkpoint.load_transformer(dtype)
    cells = checkpoint.trained_side // 8
    return Model("tiny", language.to(device), transformer.to(device), prompt, cells)


def full(
    device: torch.device, dtype: torch.dtype, layers: int | None = None, render: bool = False,
    render_layers: int | None = None,
) -> Model:  # fmt: skip
    """`layers` of the language model, None for all. `render`: also the diffusion transformer, with `render_layers`."""
    language, transformer = shapes(layers, render, render_layers)
    config, language = language.config, _random(language, device, dtype)
    language.model.rotary_emb = type(language.model.rotary_emb)(config=config).to(device)
    transformer = None if transformer is None else _random(transformer, device, dtype)
    count = transformer.config.num_layers if render else config.num_hidden_layers
    return Model(f"full shapes, {count} layers", language, transformer, list(range(60)), 32)


def shapes(
    layers: int | None, render: bool, render_layers: int | None = None
) -> tuple[LanguageModel, torch.nn.Module | None]:
    """The networks of `full` on the meta device."""
    from transformers import Qwen3Config

    fields = LANGUAGE if layers is None else {**LANGUAGE, "num_hidden_layers": layers}
    first = LANGUAGE["vocab_size"] - CODES - 1
    vocabulary = Vocabulary(first - 5, first - 4, first - 3, first, CODES, LANGUAGE["vocab_size"], (0,), 0)
    config = Qwen3Config(**fields)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        language = LanguageModel(config, vocabulary, GRID, CodesId(CODES), ConnectorWidths(CROSS_WIDTH), tied=True)
        blocks = TRANSFORMER if render_layers is None else {**TRANSFORMER, "num_layers": render_layers}
        return language, diffusion_transformer.build(blocks) if render else None


def published_autoencoder() -> torch.nn.Module:
    with torch.device("meta"):
        return build_autoencoder(DC_AE)


def autoencoder(model: Model, device: torch.device) -> torch.nn.Module:
    """The autoencoder for `model`'s latents: the bundled one, or the published shape with random weights."""
    dtype = model.transformer.dtype
    if model.name == "tiny":
        return open_checkpoint(BUNDLED).load_autoencoder(dtype).to(device)
    return _random(published_autoencoder(), device, dtype)


def _random(network: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Random weights of a harmless size: the cost does not depend on their values."""
    network = network.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return network


def authors_language(language: LanguageModel):
    """transformers' Qwen3ForCausalLM on the same tensors."""
    from transformers import Qwen3ForCausalLM

    with torch.device("meta"):
        theirs = Qwen3ForCausalLM(language.config)
    own = theirs.state_dict().keys()
    tensors = {name: tensor for name, tensor in language.state_dict().items() if name in own}
    theirs.load_state_dict(tensors, assign=True, strict=False)
    theirs.lm_head.weight = theirs.model.embed_tokens.weight
    theirs.model.rotary_emb = language.model.rotary_emb
    return theirs.requires_grad_(False).eval()
