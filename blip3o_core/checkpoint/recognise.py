"""Recognise a checkpoint by its tensors and config fields.

Folder names, shard names and `model_type` ("qwen3") decide nothing. Opening reads headers and JSON, no weights.
"""

import os
from pathlib import Path

from ..download.published import download_line
from ..errors import Blip3oError, first_line, shown
from ..files import read_json, read_optional_json
from ..models import image_tokenizer
from ..prompts.vocabulary import Vocabulary
from ..weights.names import CONNECTOR, FEATURES_CONNECTOR, REFERENCE_CONNECTOR, SANA, VAE
from ..weights.tensors import TensorIndex, read_index, strip_prefix
from .checkpoint import Checkpoint
from .diffusion_folder import find_diffusion_folder
from .find import find_checkpoints
from .networks import LANGUAGE_FIELDS, rope_theta
from .plausible import AUTOENCODER_RULES, LANGUAGE_RULES, TRANSFORMER_RULES, Rule, require_plausible

_TRANSFORMER_FIELDS = ("in_channels", "num_layers", "num_attention_heads", "attention_head_dim", "caption_channels")
_AUTOENCODER_FIELDS = ("latent_channels", "decoder_block_out_channels", "scaling_factor")
_TENSORS = ("model.embed_tokens.weight", CONNECTOR + "0.weight", CONNECTOR + "2.weight")
# Axes of the tensors whose sizes say how networks are built.
_AXES = {
    **{name + "0.weight": 2 for name in (CONNECTOR, REFERENCE_CONNECTOR, FEATURES_CONNECTOR)},
    CONNECTOR + "2.weight": 2,
    SANA + "proj_out.weight": 2,
    VAE + "decoder.conv_in.weight": 4,
}
# Tensors of other architectures, and what these are. Asked where those of BLIP3o-NEXT are missing; Pref-Restore's may
# be there as well.
_PREF_RESTORE = "model.vae_connector."
_OTHERS = {
    # Its image features come from another diffusion model.
    "a checkpoint of BLIP3o's first generation": (
        "model.dit.", "model.latent_queries", "model.down_projector", "model.gen_vision_tower.",
    ),
    "a Pref-Restore checkpoint, which restores images with a connector of its own (vae_connector)": (_PREF_RESTORE,),
    "an image tokenizer (TA-Tok)": ("encoder.embeddings.position_embedding.",),
    "a diffusion transformer alone": ("transformer_blocks.",),
    "a language model alone": ("model.embed_tokens.",),
}  # fmt: skip


def open_checkpoint(folder: str | Path, diffusion_folder: str | Path | None = None) -> Checkpoint:
    """Recognise the checkpoint in `folder`.

    `diffusion_folder`: where transformer/config.json and vae/config.json are; None looks in and beside `folder`.
    Raises Blip3oError that says what is missing, or what the folder is instead.
    """
    folder = Path(folder)
    _require_config(folder)
    config = read_json(folder / "config.json")
    tensors = read_index(folder)
    _check_tensors(folder, tensors, config)
    language = {**config, "rope_theta": rope_theta(config)}
    require_plausible(language, LANGUAGE_FIELDS, LANGUAGE_RULES, folder / "config.json")
    generation = read_optional_json(folder / "generation_config.json")
    vocabulary = Vocabulary.from_config(config, generation, folder)
    diffusion = find_diffusion_folder(folder, diffusion_folder, tensors, config)
    tatok = image_tokenizer.infer_config(strip_prefix(tensors, image_tokenizer.PREFIX), folder, config)
    if tatok and tatok.num_codes != vocabulary.num_codes:
        raise Blip3oError(
            f"{folder / 'config.json'} says num_image_tokens {vocabulary.num_codes}, the codebook has "
            f"{tatok.num_codes} codes. The file does not belong to these weights; copy it again."
        )
    return Checkpoint(
        folder=folder,
        diffusion_folder=diffusion,
        config=config,
        vocabulary=vocabulary,
        tensors=tensors,
        transformer_config=_config_of(diffusion / "transformer", _TRANSFORMER_FIELDS, TRANSFORMER_RULES),
        autoencoder_config=_config_of(diffusion / "vae", _AUTOENCODER_FIELDS, AUTOENCODER_RULES),
        image_tokenizer_config=tatok,
    )


def _require_config(folder: Path) -> None:
    """Raise Blip3oError, which says where a checkpoint is instead, for a folder without a config.json."""
    try:
        if os.path.lexists(folder / "config.json"):
            return
        fault = "contains no config.json" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    except (OSError, ValueError) as error:  # a name that no folder can have
        fault = f"cannot be looked into: {first_line(error)}"
    inside = [folder / name for name in find_checkpoints(folder)[:3]] if fault.startswith("contains") else []
    if inside:
        fault += f", but a folder inside it does. Choose {' or '.join(map(str, inside))}"
    else:
        fault += (
            ". Choose the folder that contains config.json and the .safetensors files, or copy what is missing there. "
            f"To download a published checkpoint, type: {download_line(folder.name)}"
        )
    raise Blip3oError(f"The checkpoint folder {shown(folder)} {fault}.")


def _check_tensors(folder: Path, tensors: TensorIndex, config: dict) -> None:
    """Raise Blip3oError unless these are the weights of a BLIP3o-NEXT checkpoint."""
    missing = [name for name in _TENSORS if name not in tensors]
    architectures = f"config.json says architectures {shown(config.get('architectures'))}"
    if missing:
        found = ", ".join(map(shown, sorted(tensors)[:4])) + ", ..." if tensors else "nothing"
        kinds = (kind for kind, starts in _OTHERS.items() if any(name.startswith(starts) for name in tensors))
        kind = next((f"{kind}, not a BLIP3o-NEXT checkpoint" for kind in kinds), "not a BLIP3o-NEXT checkpoint")
        raise Blip3oError(
            f"{folder} is {kind}: its weights have no {' and no '.join(missing)} (found {found}; {architectures}). "
            "Choose another folder."
        )
    if any(name.startswith(_PREF_RESTORE) for name in tensors):
        kind = next(kind for kind, starts in _OTHERS.items() if _PREF_RESTORE in starts)
        raise Blip3oError(
            f"{folder} is {kind}. Images made without that connector would be wrong, so this program does not load it "
            f"({architectures}). Choose another folder."
        )
    for name, axes in _AXES.items():
        if name in tensors and len(tensors[name].shape) != axes:
            raise Blip3oError(
                f"{name} in {tensors[name].file} has the shape {list(tensors[name].shape)}, which is not that of a "
                f"matrix of {axes} axes. The file is damaged or belongs to another model; download it again."
            )


def _config_of(part: Path, fields: tuple[str, ...], rules: dict[str, Rule]) -> dict:
    config = read_json(part / "config.json")
    require_plausible(config, fields, rules, part / "config.json")
    return config
