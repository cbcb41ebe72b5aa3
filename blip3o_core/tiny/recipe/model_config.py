"""Sizes of the tiny model, its config files in the published layout, and its word-level tokenizer.

Classes, names and files are those of the published model; only sizes differ. 64 px and an autoencoder that divides by 8
give an 8 x 8 grid of codes and of latents; so do the second edition's 128 px and one that divides by 16.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...files import atomic_write
from ...models.image_tokenizer import ImageTokenizerConfig
from ...prompts.tokenizer_file import PLAIN_WORDS
from ..scenes.captions import NUMBERS, phrasings
from ..scenes.edits import edit_kinds, instructions, make_edit
from ..scenes.font import CHARACTERS
from ..scenes.words import LETTERS
from ..scenes.world import CATEGORIES, SECOND, TEXT, World, make_scene


@dataclass(frozen=True)
class Sizes:
    """What differs between the editions."""

    side: int  # pixels
    codes: int
    code_width: int
    latent_channels: int
    # Of the autoencoder, from the stage next to the pixels on; every stage but the last halves the side.
    widths: tuple[int, ...]
    encoder_layers: tuple[int, ...]
    decoder_layers: tuple[int, ...]
    sana_layers: int
    front_layers: int  # of the language model, for the references of edits
    # Of the conditions. In the first edition they are half as wide as the states; the second's say more.
    cross_width: int

    @property
    def cell(self) -> int:
        """Pixels to a latent cell."""
        return self.side // GRID


FIRST_EDITION = Sizes(64, 8192, 32, 16, (24, 32, 64, 128), (0, 1, 1, 1), (0, 1, 2, 2), 4, 0, 96)
SECOND_EDITION = Sizes(128, 9216, 64, 32, (24, 24, 48, 96, 192), (0, 1, 1, 1, 1), (0, 1, 1, 2, 2), 5, 1, 192)


def sizes_of(world: World) -> Sizes:
    """Those of the edition that the world belongs to."""
    return SECOND_EDITION if world.lettered else FIRST_EDITION


GRID = 8
SIDE, CODES, CODE_WIDTH, LATENT_CHANNELS = 64, 8192, 32, 16  # of the first edition
LANGUAGE_WIDTH, LANGUAGE_LAYERS, HEADS, KV_HEADS, HEAD_DIM = 192, 5, 4, 2, 48
SANA_HEADS, SANA_HEAD_DIM = 6, 32
PROMPT_LIMIT = 512
AFTER_REFERENCES = 7  # tokens of every prompt of an edit


def tokenizer_config(sizes: Sizes = FIRST_EDITION) -> ImageTokenizerConfig:
    """As in the published file, the tower has one layer more than encoding runs."""
    return ImageTokenizerConfig(
        hidden_size=128,
        num_layers=5,
        intermediate_size=384,
        patch_size=sizes.side // GRID,
        num_channels=3,
        num_tokens=GRID**2,
        num_codes=sizes.codes,
        code_dim=sizes.code_width,
        num_heads=4,
        image_size=sizes.side,
    )


_CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
# The fixed parts of every prompt are one token each. As words they would be a third of all positions.
_PHRASES = (
    "system\nyou are a helpful assistant.",
    "user\nplease generate image based on the following caption:",
    "user\nplease edit this image according to the following instruction:",
    "user\nplease edit these images according to the following instruction:",
    "assistant\n",
    "\n",
)
_MORE_WORDS = ("please", "generate", "edit", "this", "these", "images", "image", "first", "second", "third", "user")


_QUOTED = sorted({character.lower() for character in CHARACTERS} | set("abcdefghijklmnopqrstuvwxyz0123456789"))
_FIRST_PIECES = ("[UNK]", *_PHRASES, '"', '##"', *(f"##{letter}" for letter in _QUOTED))
# Ids of the letters A to Z in quoted text, in every tokenizer of the tiny world
LETTER_IDS = [_FIRST_PIECES.index(f"##{letter.lower()}") for letter in LETTERS]


@lru_cache(maxsize=2)
def words(sizes: Sizes = FIRST_EDITION) -> tuple[str, ...]:
    """Every word that captions and instructions use, sorted."""
    world = World() if sizes == FIRST_EDITION else SECOND
    found = {*_MORE_WORDS, *NUMBERS}
    for index in range(100):  # 38 are enough to meet every word
        texts = [phrasings(make_scene(0, "train", index, world, category)) for category in (*CATEGORIES, TEXT)]
        texts += [instructions(make_edit(0, "train", index, world, kind)) for kind in edit_kinds(world)]
        for text in texts:
            found.update(_split(" ".join(text).lower()))
    return tuple(sorted(found))


def _split(text: str) -> list[str]:
    import re

    return re.findall(r"[a-z]+", re.sub(r'"[^"]*"', " ", text))


def write_tokenizer(folder: Path, sizes: Sizes = FIRST_EDITION) -> int:
    """Write tokenizer.json with words, letters, chat and image tokens, and return the id of <I0>.

    An unknown word is one `[UNK]`. Quoted text is read letter by letter: `"CAT"` is `"`, `##c`, `##a`, `##t`, `##"`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    pieces = [*_FIRST_PIECES, *"0123456789", *",.:;!?-'()"]
    pieces += [word for word in words(sizes) if word not in pieces]
    model = models.WordPiece({piece: id for id, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    phrases = "|".join(phrase.replace(".", r"\.").replace("\n", r"\n") for phrase in _PHRASES)
    # A word ends at the first character that is not a letter. Quoted text stays whole, so that its letters are `##x`.
    pattern = Regex(f"{phrases}|{PLAIN_WORDS}")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in (*_CHAT, "<im_start>", "<im_end>")])
    numbered = [f"<S{i}>" for i in range(3)] + [f"<I{i}>" for i in range(sizes.codes)]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in numbered])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.token_to_id("<I0>")


def write_configs(folder: Path, scaling_factor: float, sizes: Sizes = FIRST_EDITION) -> dict:
    """Write all files of a checkpoint except its weights, and return the content of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    first = write_tokenizer(folder, sizes)
    chat = first - 5 - len(_CHAT)
    config = language_config(first, chat + 2, sizes)
    _write(folder / "config.json", config)
    generation = {"do_sample": True, "eos_token_id": [chat + 2, chat], "pad_token_id": chat}
    _write(folder / "generation_config.json", generation)
    _write(folder / "tokenizer_config.json", {"model_max_length": PROMPT_LIMIT})
    _write(folder / "diffusion/transformer/config.json", transformer_config(sizes))
    _write(folder / "diffusion/vae/config.json", autoencoder_config(scaling_factor, sizes))
    _write(folder / "diffusion/scheduler/scheduler_config.json", {"flow_shift": 1.0, "num_train_timesteps": 1000})
    return config


def language_config(first_image: int, end: int, sizes: Sizes = FIRST_EDITION) -> dict:
    tatok = tokenizer_config(sizes)
    return {
        "architectures": ["blip3oQwenForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": LANGUAGE_WIDTH,
        "num_hidden_layers": LANGUAGE_LAYERS + sizes.front_layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": 512,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "rope_theta": 1000,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "vocab_size": first_image + sizes.codes,
        "eos_token_id": end,
        "bos_token_id": end - 2,
        "image_start_tag_id": first_image - 5,
        "image_end_tag_id": first_image - 4,
        "scale_start_token_id": first_image - 3,
        "scale_end_token_id": first_image - 1,
        "num_scale_tokens": 3,
        "image_start_token_id": first_image,
        "image_end_token_id": first_image + sizes.codes - 1,
        "num_image_tokens": sizes.codes,
        "mm_vision_tower": None,
        "tokenizer_model_max_length": PROMPT_LIMIT,
        "diffusion_name_or_path": "diffusion",
        "vision_config": {
            "hidden_size": tatok.hidden_size,
            "num_hidden_layers": tatok.num_layers,
            "num_attention_heads": tatok.num_heads,
            "intermediate_size": tatok.intermediate_size,
            "patch_size": tatok.patch_size,
            "image_size": tatok.image_size,
        },
    }


def transformer_config(sizes: Sizes = FIRST_EDITION) -> dict:
    inner = SANA_HEADS * SANA_HEAD_DIM
    return {
        "_class_name": "SanaTransformer2DModel",
        "in_channels": sizes.latent_channels,
        "out_channels": sizes.latent_channels,
        "num_attention_heads": SANA_HEADS,
        "attention_head_dim": SANA_HEAD_DIM,
        "num_layers": sizes.sana_layers,
        "num_cross_attention_heads": SANA_HEADS,
        "cross_attention_head_dim": SANA_HEAD_DIM,
        "cross_attention_dim": inner,
        "caption_channels": sizes.cross_width,
        "mlp_ratio": 2.5,
        "patch_size": 1,
        "sample_size": GRID,
        "interpolation_scale": 1,
        "qk_norm": "rms_norm_across_heads",
    }


def autoencoder_config(scaling_factor: float = 1.0, sizes: Sizes = FIRST_EDITION) -> dict:
    """The first stage has no layers: the work begins at half of the resolution."""
    stages = len(sizes.widths)
    return {
        "_class_name": "AutoencoderDC",
        "in_channels": 3,
        "latent_channels": sizes.latent_channels,
        "attention_head_dim": 8,
        "encoder_block_types": ["ResBlock"] * stages,
        "decoder_block_types": ["ResBlock"] * stages,
        "encoder_block_out_channels": list(sizes.widths),
        "decoder_block_out_channels": list(sizes.widths),
        "encoder_layers_per_block": list(sizes.encoder_layers),
        "decoder_layers_per_block": list(sizes.decoder_layers),
        "encoder_qkv_multiscales": [[]] * stages,
        "decoder_qkv_multiscales": [[]] * stages,
        "upsample_block_type": "interpolate",
        "downsample_block_type": "Conv",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "scaling_factor": scaling_factor,
    }


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
