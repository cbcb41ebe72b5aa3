"""A tiny random checkpoint in the published layout, so that no test needs a download.

Its sizes differ from the published ones everywhere (grid, codes, channels, autoencoder factor, widths), so a test that
passes on it shows that nothing of the published sizes is built in.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.normalization import AdaLayerNormSingle
from safetensors.torch import save_file

from blip3o_core.models import autoencoder, diffusion_transformer, image_tokenizer
from blip3o_core.models.connector import build_connector
from blip3o_core.prompts.tokenizer_file import QWEN_WORDS
from blip3o_core.weights.names import EDIT_CONNECTORS, SANA, VAE


@dataclass(frozen=True)
class Sizes:
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 24
    mlp: int = 96
    codes: int = 96
    grid: int = 5
    cross_width: int = 40
    sana_heads: int = 4
    sana_head_dim: int = 8
    sana_layers: int = 2
    latent_channels: int = 8
    latent_side: int = 8
    vae_widths: tuple[int, ...] = (8, 16, 16, 32)  # 2 ** (n - 1) = 8 pixels a cell
    tower: int = 32
    tower_layers: int = 3
    code_width: int = 16
    prompt_limit: int = 200


PATCH = 14
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
DEFAULT = Sizes()


def make_checkpoint(folder, seed=0, sizes=DEFAULT, edit=(), shards=1, dtype=torch.float32, meanflow=False) -> Path:
    """Write the checkpoint with its diffusion folder inside (`diffusion/`). `edit`: the config switches that are on.

    `meanflow`: a few-step one, with time_embed_t and time_embed_r beside the time_embed it no longer uses.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first_image = _write_tokenizer(folder, sizes)
    config = _language_config(sizes, first_image, edit)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"do_sample": True, "eos_token_id": [258, 256], "pad_token_id": 256})
    transformer, vae = _diffusion_configs(sizes)
    _write_json(folder / "diffusion/transformer/config.json", transformer)
    _write_json(folder / "diffusion/vae/config.json", vae)
    _write_json(folder / "diffusion/scheduler/scheduler_config.json", {"flow_shift": 3.0, "num_train_timesteps": 1000})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {
            "model.": _language(config),
            "model.diffusion_connector.": build_connector(sizes.hidden, sizes.cross_width),
            SANA: diffusion_transformer.build(transformer),
            VAE: autoencoder.build(vae),
            image_tokenizer.PREFIX: _tower(config, sizes),
        }
        shapes = {
            "use_und_image_vae": lambda: build_connector(sizes.latent_channels, sizes.cross_width),
            "use_und_image_vae_as_noise": lambda: torch.nn.Sequential(
                torch.nn.Conv2d(2 * sizes.latent_channels, sizes.latent_channels, 1)
            ),
            "use_tar_siglip_features": lambda: build_connector(sizes.tower, sizes.hidden),
        }
        parts |= {EDIT_CONNECTORS[switch]: shapes[switch]() for switch in edit if switch in shapes}
        if meanflow:
            width = sizes.sana_heads * sizes.sana_head_dim
            parts |= {f"{SANA}time_embed_{end}.": AdaLayerNormSingle(width) for end in "tr"}
    tensors = {
        prefix + name: tensor.detach().to(dtype).clone()
        for prefix, network in parts.items()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    _save(folder, tensors, shards)
    return folder


def _language(config):
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(Qwen3Config(**{k: v for k, v in config.items() if k not in ("model_type", "architectures")}))


def _language_config(sizes: Sizes, first_image: int, edit) -> dict:
    switches = (
        {switch: switch in edit for switch in (*EDIT_CONNECTORS, "only_use_und_image_vae_as_noise")} if edit else {}
    )
    return {
        "architectures": ["blip3oQwenForCausalLM"], "model_type": "qwen3", "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim, "intermediate_size": sizes.mlp, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096, "rope_theta": 1000000, "attention_bias": False, "tie_word_embeddings": True,
        "initializer_range": 0.2, "vocab_size": first_image + sizes.codes, "eos_token_id": 258, "bos_token_id": 256,
        "image_start_tag_id": first_image - 5, "image_end_tag_id": first_image - 4,
        "scale_start_token_id": first_image - 3, "scale_end_token_id": first_image - 1, "num_scale_tokens": 3,
        "image_start_token_id": first_image, "image_end_token_id": first_image + sizes.codes - 1,
        "num_image_tokens": sizes.codes, "mm_vision_tower": None, "tokenizer_model_max_length": sizes.prompt_limit,
        "diffusion_name_or_path": "diffusion",
        "vision_config": {
            "hidden_size": sizes.tower, "num_hidden_layers": sizes.tower_layers, "num_attention_heads": 4,
            "intermediate_size": 2 * sizes.tower, "patch_size": PATCH, "image_size": sizes.grid * PATCH + 6,
        },
        **switches,
    }  # fmt: skip


def _diffusion_configs(sizes: Sizes) -> tuple[dict, dict]:
    inner = sizes.sana_heads * sizes.sana_head_dim
    transformer = {
        "_class_name": "SanaTransformer2DModel", "in_channels": sizes.latent_channels,
        "out_channels": sizes.latent_channels, "num_attention_heads": sizes.sana_heads,
        "attention_head_dim": sizes.sana_head_dim, "num_layers": sizes.sana_layers,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": inner // 2, "cross_attention_dim": inner,
        "caption_channels": sizes.cross_width, "mlp_ratio": 2.5, "patch_size": 1, "sample_size": sizes.latent_side,
        "interpolation_scale": None, "qk_norm": "rms_norm_across_heads",
    }  # fmt: skip
    blocks, depth = len(sizes.vae_widths), ("ResBlock", "EfficientViTBlock")
    kinds = [depth[i >= blocks // 2] for i in range(blocks)]
    scales = [[5] if kind == depth[1] else [] for kind in kinds]
    vae = {
        "_class_name": "AutoencoderDC", "in_channels": 3, "latent_channels": sizes.latent_channels,
        "attention_head_dim": 8, "encoder_block_types": kinds, "decoder_block_types": kinds,
        "encoder_block_out_channels": list(sizes.vae_widths),
        "decoder_block_out_channels": list(sizes.vae_widths), "encoder_layers_per_block": [1] * blocks,
        "decoder_layers_per_block": [1] * blocks, "encoder_qkv_multiscales": scales, "decoder_qkv_multiscales": scales,
        "upsample_block_type": "interpolate", "downsample_block_type": "Conv", "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu", "scaling_factor": 0.5,
    }  # fmt: skip
    return transformer, vae


def _tower(config: dict, sizes: Sizes) -> image_tokenizer.ImageTokenizer:
    """The published file holds one tower layer more than encoding runs; so does this."""
    full = image_tokenizer.ImageTokenizerConfig(
        hidden_size=sizes.tower,
        num_layers=sizes.tower_layers + 1,
        intermediate_size=2 * sizes.tower,
        patch_size=PATCH,
        num_channels=3,
        num_tokens=sizes.grid**2,
        num_codes=sizes.codes,
        code_dim=sizes.code_width,
        num_heads=4,
        image_size=config["vision_config"]["image_size"],
    )
    return image_tokenizer.ImageTokenizer(full)


def _write_tokenizer(folder: Path, sizes: Sizes) -> int:
    """Byte-level, with Qwen's pre-tokenizer and chat tokens, then the image tokens; returns the id of <I0>."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    words, as_letters = Regex(QWEN_WORDS), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), as_letters])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in (*CHAT_TOKENS, "<im_start>", "<im_end>")])
    tokenizer.add_tokens([f"<S{i}>" for i in range(3)] + [f"<I{i}>" for i in range(sizes.codes)])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json", {"model_max_length": sizes.prompt_limit, "tokenizer_class": "Qwen2Tokenizer"}
    )
    return tokenizer.token_to_id("<I0>")


def _save(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[shard::shards]
        save_file({name: tensors[name] for name in mine}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(mine, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(make_checkpoint(arguments.folder, arguments.seed))
