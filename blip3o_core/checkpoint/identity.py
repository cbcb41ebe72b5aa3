"""What a checkpoint is, by content: equal for copies, other shards, names and times, different for one other byte.

Everything counts that changes a result: each tensor's name, dtype, shape and bytes, the fields of the config files that
the networks are built from, the token ids, what the tokenizer does, the flow shift. What only describes the files does
not: who saved them with which release, where they lie, and fields that say what is the default anyway.
"""

import hashlib
import inspect
import json
from dataclasses import asdict
from typing import Any

from ..models.known_fields import known_fields
from ..weights.digest import digest_of
from ..weights.tensors import TensorIndex
from .facts import AUTOENCODER, IMAGE_TOKENIZER, LANGUAGE, TRANSFORMER, CheckpointFacts
from .networks import LANGUAGE_FIELDS, rope_theta


def language_identity(facts: CheckpointFacts) -> str:
    """32 hex digits: equal only for checkpoints whose language models write the same hidden states."""
    return _digest(facts.parts[LANGUAGE], _language_facts(facts))


def identity(facts: CheckpointFacts) -> str:
    """32 hex digits: equal only for checkpoints that make the same images from the same settings."""
    from diffusers import AutoencoderDC, SanaTransformer2DModel

    tokenizer = facts.image_tokenizer_config
    others = {
        "shift": float(facts.shift),
        "transformer": _without_defaults(facts.transformer_config, SanaTransformer2DModel),
        "autoencoder": _without_defaults(facts.autoencoder_config, AutoencoderDC),
        "image tokenizer": asdict(tokenizer) if tokenizer else None,
    }
    parts = [_digest(facts.parts.get(part, {}), None) for part in (TRANSFORMER, AUTOENCODER, IMAGE_TOKENIZER)]
    return _digest({}, [language_identity(facts), *parts, others])


def _digest(tensors: TensorIndex, facts: Any) -> str:
    text = json.dumps([digest_of(tensors), facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _language_facts(facts: CheckpointFacts) -> list:
    config = facts.config
    fields = {name: config.get(name) for name in LANGUAGE_FIELDS} | {
        "rope_theta": float(rope_theta(config) or 0),
        "hidden_act": config.get("hidden_act", "silu"),
        "attention_bias": bool(config.get("attention_bias")),
    }
    return [fields, asdict(facts.vocabulary), asdict(facts.codes_id), facts.switches, facts.tied]


def _without_defaults(config: dict, network: type) -> dict:
    """The fields that say something else than the class does by itself; a library that saves again writes them all."""
    known, parameters = known_fields(config, network), inspect.signature(network).parameters
    plain = json.loads(json.dumps({name: parameters[name].default for name in known}, default=str))
    return {name: value for name, value in known.items() if value != plain[name]}
