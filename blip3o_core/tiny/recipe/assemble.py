"""Writes a checkpoint in the published layout from the parts trained so far. Other parts have their starting values."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ...files import atomic_write
from ...models import autoencoder, diffusion_transformer, image_tokenizer
from ...models.connector import build_connector
from ...weights.names import CONNECTOR, SANA, VAE
from . import init, model_config
from .image_tokenizer import build as build_tokenizer
from .image_tokenizer import tensors as tokenizer_tensors
from .loop import seeded_init
from .model_config import FIRST_EDITION, Sizes

# Stages that write a file of tensors, by their published names; a later one's count
PARTS = ("autoencoder", "image_tokenizer", "language", "renderer", "connector", "align", "references")


def save_part(out: Path, stage: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    with atomic_write(out / f"{stage}.safetensors") as scratch:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, scratch, metadata=metadata)


def scaling_factor(out: Path) -> float:
    path = out / "autoencoder.safetensors"
    if not path.is_file():
        return 1.0
    with safe_open(path, "pt") as file:
        return float(file.metadata()["scaling_factor"])


def assemble(
    out: Path,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    sizes: Sizes = FIRST_EDITION,
    given: dict[str, torch.Tensor] | None = None,
    parts: Sequence[str] = PARTS,
) -> Path:
    """Write `folder` as a complete checkpoint from the parts in `out`, and from the `given` tensors before them."""
    config = model_config.write_configs(folder, scaling_factor(out), sizes)
    with seeded_init(seed):
        connector = build_connector(model_config.LANGUAGE_WIDTH, sizes.cross_width)
        transformer = diffusion_transformer.build(model_config.transformer_config(sizes))
        vae = autoencoder.build(model_config.autoencoder_config(sizes=sizes))
        language = init.language_model(config, sizes)
    init.align_cross_attention(transformer)
    networks = {
        "model.": language.state_dict(),
        CONNECTOR: connector.state_dict(),
        SANA: transformer.state_dict(),
        VAE: vae.state_dict(),
        image_tokenizer.PREFIX: tokenizer_tensors(build_tokenizer(sizes=sizes)),
    }
    tensors = {prefix + name: tensor for prefix, state in networks.items() for name, tensor in state.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".pos_embed")}
    for stage in parts:
        path = out / f"{stage}.safetensors"
        if path.is_file():
            tensors |= load_file(path)
    tensors |= given or {}
    kept = {name: t.detach().to(dtype).contiguous().clone() for name, t in tensors.items() if t.is_floating_point()}
    with atomic_write(folder / "model.safetensors") as scratch:
        save_file(kept, scratch, metadata={"format": "pt"})
    return folder
