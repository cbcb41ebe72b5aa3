"""The published checkpoints' layouts at full size, as sparse files: real names and shapes, weights of zeros.

Ten gigabytes on paper and a few megabytes on the disk. Names, shapes, the shard rule, config fields and the vocabulary
are those that the authors' code, the model cards and SANA's published configuration imply; the tokenizer's words below
the added tokens are made up.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from blip3o_core.checkpoint.diffusion_folder import BUNDLED_CONFIGS
from blip3o_core.weights.names import SANA, VAE
from tests.support.paths import GOLDEN

VOCABULARY, WORDS, CODES, WIDTH = 217_210, 151_643, 65_536, 2048
LANGUAGE = {
    "hidden_size": WIDTH, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    "intermediate_size": 6144, "head_dim": 128, "vocab_size": VOCABULARY, "tie_word_embeddings": True,
}  # fmt: skip
_SHARD = 5_000_000_000  # bytes
_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
_CONNECTOR = {
    "0.weight": [2304, WIDTH],
    "0.bias": [2304],
    "2.weight": [2304, 2304],
    "2.bias": [2304],
    "3.weight": [2304],
}
Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Layout:
    """One published checkpoint: whether the tied head was saved as well, and what else its config.json says."""

    head: bool
    config: dict
    more: Shapes = field(default_factory=dict)  # tensors beside those that all have


_PLAIN = {"architectures": ["blip3oQwenForCausalLM"], "model_type": "qwen3", "transformers_version": "4.51.3"}
_CROSS, _NOISE = "model.und_image_vae_connector.", "model.und_image_vae_as_noise_connector."
LAYOUTS = {
    "BLIP3o-NEXT-SFT-3B": Layout(True, _PLAIN),
    "BLIP3o-NEXT-GRPO-TexT-3B": Layout(
        False,
        {
            "architectures": ["blip3oQwenForGRPOLM"],
            "model_type": "blip3o_qwen_grpo",
            "transformers_version": "4.54.1",
            "layer_types": ["full_attention"] * 28,
        },
    ),
    "BLIP3o-NEXT-edit-VAE": Layout(
        True,
        {**_PLAIN, "use_und_image_vae": True, "use_und_image_vae_as_noise": True},
        {
            **{_CROSS + name: shape for name, shape in {**_CONNECTOR, "0.weight": [2304, 32]}.items()},
            _NOISE + "0.weight": [32, 64, 1, 1],
            _NOISE + "0.bias": [32],
        },
    ),
}


def make_full_size(folder: Path, name: str, drop: str = "", more: Shapes | None = None) -> Path:
    """Write the layout `name` into `folder`, without the tensors that begin with `drop` and with `more` tensors."""
    folder.mkdir(parents=True)
    layout = LAYOUTS[name]
    shapes = {**_shapes(), **layout.more, **(more or {})}
    if layout.head:
        shapes["lm_head.weight"] = [VOCABULARY, WIDTH]
    shards = _shards({name: shape for name, shape in shapes.items() if not (drop and name.startswith(drop))})
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, shard)
        where |= dict.fromkeys(shard, file)
    _write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    _write(folder / "config.json", _config() | layout.config)
    _write(folder / "generation_config.json", {"eos_token_id": [151_645, 151_643], "pad_token_id": 151_643})
    _write(folder / "tokenizer.json", _tokenizer())
    _write(folder / "tokenizer_config.json", {"model_max_length": 2048, "tokenizer_class": "Qwen2Tokenizer"})
    return folder


def _shapes() -> Shapes:
    """Everything but the head, as all published checkpoints have it."""
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

    tower = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
        patch_size=14,
    )  # fmt: skip
    with torch.device("meta"):
        networks = {
            "": Qwen3ForCausalLM(Qwen3Config(**LANGUAGE)),
            SANA: SanaTransformer2DModel.from_config(_sana("transformer")),
            VAE: AutoencoderDC.from_config(_sana("vae")),
            "model.vision_tower.vision_tower.encoder.": SiglipVisionModel(tower),
        }
    shapes = {
        prefix + re.sub(r"^vision_model\.", "", name): list(tensor.shape)
        for prefix, network in networks.items()
        for name, tensor in network.state_dict().items()
        if name != "lm_head.weight"
    }
    tokenizer = {
        "encode_task_layer.0.weight": [1152, 1152], "encode_task_layer.0.bias": [1152],
        "decode_task_layer.0.weight": [1152, 1152], "decode_task_layer.0.bias": [1152],
        "bottleneck.in_linear.weight": [1536, 1152], "bottleneck.in_linear.bias": [1536],
        "bottleneck.out_linear.weight": [1152, 1536], "bottleneck.out_linear.bias": [1152],
        "bottleneck.regularizer.embedding.weight": [CODES, 1536],
        "bottleneck.regularizer.embedding_proj.weight": [1536, 1536],
        "bottleneck.regularizer.embedding_proj.bias": [1536],
        "decoder.vision_model.post_layernorm.weight": [1152], "scale_layer.scale": [1, 3, 1, 1],
        "scale_layer.shift": [1, 3, 1, 1],
    }  # fmt: skip
    shapes |= {"model.diffusion_connector." + name: shape for name, shape in _CONNECTOR.items()}
    return shapes | {"model.vision_tower.vision_tower." + name: shape for name, shape in tokenizer.items()}


def _sana(part: str) -> dict:
    return json.loads((BUNDLED_CONFIGS / part / "config.json").read_text())


def _shards(shapes: Shapes) -> list[Shapes]:
    shards: list[Shapes] = [{}]
    size = 0
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        if size + nbytes > _SHARD and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += nbytes
    return shards


def _write_shard(path: Path, shapes: Shapes) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _config() -> dict:
    golden = json.loads((GOLDEN / "checkpoints/t2i/config.json").read_text())
    return golden | LANGUAGE | {
        "max_position_embeddings": 40_960, "rope_theta": 1_000_000, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
        "bos_token_id": 151_643, "eos_token_id": 151_645, "image_start_tag_id": 151_669, "image_end_tag_id": 151_670,
        "scale_start_token_id": 151_671, "scale_end_token_id": 151_673, "image_start_token_id": 151_674,
        "image_end_token_id": 217_209, "num_image_tokens": CODES, "num_new_tokens": CODES,
        "diffusion_name_or_path": "DIFFUSION", "max_window_layers": 28,
    }  # fmt: skip


def _tokenizer() -> dict:
    made = json.loads((GOLDEN / "checkpoints/t2i/tokenizer.json").read_text())
    words = {word: number for word, number in made["model"]["vocab"].items() if number < WORDS}
    taken = set(words.values())
    words |= {f"\u0120zz{number}": number for number in range(WORDS) if number not in taken}
    made["model"]["vocab"] = words
    scales, codes = [f"<S{k}>" for k in range(3)], [f"<I{k}>" for k in range(CODES)]
    special = [*_SPECIAL, "<im_start>", "<im_end>"]
    made["added_tokens"] = [
        {
            "id": WORDS + number, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": name not in special, "special": name in special,
        }
        for number, name in enumerate([*special, *scales, *codes])
    ]  # fmt: skip
    return made


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
