"""The network of each part, built on the meta device as the checkpoint's config files describe it."""

import torch

from ..errors import Blip3oError, shown
from ..models import autoencoder, diffusion_transformer, meanflow
from ..models.image_tokenizer import ImageTokenizer
from ..models.language import ConnectorWidths, LanguageModel
from ..weights.names import CONNECTOR, FEATURES_CONNECTOR, REFERENCE_CONNECTOR
from .facts import AUTOENCODER, IMAGE_TOKENIZER, LANGUAGE, TRANSFORMER, CheckpointFacts

# What config.json must say of the language model.
LANGUAGE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "rms_norm_eps",
    "max_position_embeddings",
    "head_dim",
    "rope_theta",
)
# What else the class builds from. All other fields are left out: some libraries act on them, or take their names.
_MORE_FIELDS = (
    "hidden_act", "attention_bias", "attention_dropout", "initializer_range", "pad_token_id", "bos_token_id",
    "eos_token_id", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types", "use_cache",
)  # fmt: skip


def build(facts: CheckpointFacts, part: str) -> torch.nn.Module:
    """The network of a part, without weights. Raises Blip3oError when its config file describes none."""
    builders = {
        LANGUAGE: lambda: _language_model(facts),
        TRANSFORMER: lambda: _transformer(facts),
        AUTOENCODER: lambda: autoencoder.build(facts.autoencoder_config, facts.is_decoder_only),
        IMAGE_TOKENIZER: lambda: ImageTokenizer(facts.image_tokenizer_config),
    }
    try:
        with torch.device("meta"):
            return builders[part]()
    except Blip3oError:
        raise
    except Exception as error:  # whatever a library says about a config it cannot build
        raise Blip3oError(
            f"The {part} cannot be built from the config files in {facts.folder} and {facts.diffusion_folder}: "
            f"{error}. Copy them again from where the checkpoint came from."
        ) from error


def _transformer(facts: CheckpointFacts):
    network = diffusion_transformer.build(facts.transformer_config)
    return meanflow.add_time_embeddings(network) if facts.is_meanflow else network


def _language_model(facts: CheckpointFacts) -> LanguageModel:
    from transformers import Qwen3Config

    fields = {name: facts.config[name] for name in (*LANGUAGE_FIELDS, *_MORE_FIELDS) if name in facts.config}
    fields |= {"rope_theta": rope_theta(facts.config), "tie_word_embeddings": facts.tied}
    config = Qwen3Config(**fields)
    config._attn_implementation = "sdpa"
    latents, features = (facts.tensors.get(name + "0.weight") for name in (REFERENCE_CONNECTOR, FEATURES_CONNECTOR))
    widths = ConnectorWidths(
        facts.tensors[CONNECTOR + "0.weight"].shape[0],
        latents.shape[1] if latents else None,
        features.shape[1] if features else None,
    )
    return LanguageModel(config, facts.vocabulary, facts.grid, facts.codes_id, widths, facts.tied)


def rope_theta(config: dict) -> float | None:
    """The base of the rotary embedding. Configs saved by transformers 5 keep it in `rope_parameters`."""
    parameters = config.get("rope_parameters")
    for scaling in (parameters, config.get("rope_scaling")):
        kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else "default"
        if kind != "default":
            raise Blip3oError(
                f"config.json scales the rotary embedding ({shown(kind)}), which BLIP3o-NEXT models do not use and "
                "this program does not do. Choose another checkpoint."
            )
    return config.get("rope_theta", parameters.get("rope_theta") if isinstance(parameters, dict) else None)
