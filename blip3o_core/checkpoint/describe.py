"""What a checkpoint is, for people: the text of `blip3o inspect`."""

import torch

from ..errors import shown
from ..weights.names import EDIT_CONNECTORS, SANA, VAE
from ..weights.safetensors_file import EIGHT_BITS
from ..weights.tensors import strip_prefix
from .checkpoint import Checkpoint
from .diffusion_folder import describe_source
from .facts import AUTOENCODER, PUBLISHED_GRID, TRANSFORMER
from .validate import strays

_LM_NAMES = {(1024, 28): "Qwen3-0.6B", (2048, 28): "Qwen3-1.7B", (2560, 36): "Qwen3-4B", (4096, 36): "Qwen3-8B"}


def describe(checkpoint: Checkpoint) -> str:
    """Family, sizes, token ids, parameters per part, what is unusual. Raises Blip3oError when tensors do not fit."""
    checkpoint.validate()
    c, config, ids = checkpoint, checkpoint.config, checkpoint.vocabulary
    shape = (config["hidden_size"], config["num_hidden_layers"])
    on = [name for name, value in c.switches.items() if value]
    facts = [
        ("folder", c.folder),
        ("family", c.family + (f" ({', '.join(on)})" if on else "")),
        (
            "language model",
            f"{_LM_NAMES.get(shape, 'Qwen3, own size')}: {shape[1]} layers x {shape[0]}, "
            f"{config['num_attention_heads']}/{config['num_key_value_heads']} heads, "
            f"{'tied' if c.tied else 'own'} head, vocabulary {ids.size}",
        ),
        (
            "image tokens",
            f"{ids.num_codes} codes, ids {ids.image_start}..{ids.image_start + ids.num_codes - 1}, grid "
            f"{c.grid[0]}x{c.grid[1]}",
        ),
        ("special tokens", f"<im_start> {ids.image_start_tag}, <im_end> {ids.image_end_tag}, <S0> {ids.scale_start}"),
        ("prompt", f"at most {c.prompt_limit} tokens"),
        (
            "diffusion",
            f"{c.transformer_config['num_layers']} layers, cross-attention width "
            f"{c.transformer_config['caption_channels']}, flow shift {c.shift:g}, configs from "
            f"{describe_source(c.folder, c.diffusion_folder)}",
        ),
        *[("mean flow", "few-step weights: use 1, 2 or 4 steps with euler")] * c.is_meanflow,
        (
            "autoencoder",
            f"{c.autoencoder_config['latent_channels']} channels, scaling factor "
            f"{c.autoencoder_config['scaling_factor']}, image sides in multiples of {c.latent_multiple}",
        ),
    ]
    for part, tensors in c.parts.items():
        count = sum(torch.Size(entry.shape).numel() for entry in tensors.values())
        facts.append(("parameters", f"{part}: {count / 1e6:,.2f} M"))
    facts += [("unusual", line) for line in unusual(c)]
    return "\n".join(f"{name:16}{value}" for name, value in facts)


def unusual(checkpoint: Checkpoint) -> list[str]:
    """What differs from the published checkpoints and may surprise."""
    tensors = checkpoint.tensors
    remarks = _unusual_dtypes({entry.dtype for entry in tensors.values()})
    if not checkpoint.image_tokenizer_config:
        remarks.append(f"no image tokenizer: images cannot be encoded, and the grid is taken as {PUBLISHED_GRID}")
    elif checkpoint.image_tokenizer_config.num_heads is None:
        remarks.append("the image tokenizer's number of heads is in no file: images cannot be encoded")
    for part, prefix in ((TRANSFORMER, SANA), (AUTOENCODER, VAE)):
        if not strip_prefix(tensors, prefix):
            remarks.append(f"no {part} in the checkpoint: its weights come from {checkpoint.diffusion_folder}")
    if checkpoint.is_decoder_only:
        remarks.append("the autoencoder has no encoder: images cannot be encoded, so edits are not possible")
    if checkpoint.shift != 1.0:
        remarks.append(f"flow shift {checkpoint.shift:g} in the scheduler config; the published one gives 1")
    return remarks + _contradictions(checkpoint) + _strays(checkpoint)


def _contradictions(checkpoint: Checkpoint) -> list[str]:
    remarks, tensors = [], checkpoint.tensors
    for switch, prefix in EDIT_CONNECTORS.items():
        has = any(name.startswith(prefix) for name in tensors)
        # The connector of use_und_image_vae_as_noise is saved by the authors' code and used by nobody.
        if checkpoint.config.get(switch) and not has and switch != "use_und_image_vae_as_noise":
            remarks.append(f"config.json turns {switch} on, but there are no {prefix}* tensors")
        elif has and not checkpoint.config.get(switch):
            remarks.append(f"there are {prefix}* tensors, but config.json does not turn {switch} on")
    return remarks


def _strays(checkpoint: Checkpoint) -> list[str]:
    others = strays(checkpoint)
    names = ", ".join(shown(name, 80) for name in others[:3]) + (", ..." if len(others) > 3 else "")
    return [f"{len(others)} tensors that belong to no part and are not loaded: {names}"] * bool(others)


def _unusual_dtypes(dtypes: set[str]) -> list[str]:
    remarks = [f"tensors of several dtypes: {', '.join(sorted(dtypes))}"] if len(dtypes) > 1 else []
    if not dtypes.isdisjoint(EIGHT_BITS):
        remarks.append("8-bit weights: converted when they are loaded, to bfloat16 where no other dtype is asked for")
    return remarks
