"""The values of config files, checked before anything is built from them.

A network of a million layers is built until somebody ends the process, and a base of NaN draws a black image. Whether
the values fit the tensors is another question, see `validate`.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, bullet_list, shown
from ..weights.names import EDIT_CONNECTORS

# A rule takes a value and says what it must be, or None when it is that.
Rule = Callable[[Any], str | None]


def whole(low: int, high: int) -> Rule:
    """A whole number; a bool is none."""
    return lambda value: None if type(value) is int and low <= value <= high else f"a whole number, {low} to {high}"


def number(low: float, high: float) -> Rule:
    def rule(value: Any) -> str | None:
        is_number = type(value) in (int, float) and abs(value) < 1e300 and isfinite(value)
        return None if is_number and low <= value <= high else f"a number, {low:g} to {high:g}"

    return rule


def several(rule: Rule, least: int = 1, most: int = 16) -> Rule:
    """A list whose items follow a rule."""

    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            return f"a list of {least} to {most} items"
        wrong = next((reason for reason in map(rule, value) if reason), None)
        return wrong and f"a list, each item {wrong}"

    return check


def word(value: Any) -> str | None:
    return None if isinstance(value, str) and len(value) < 100 else "a word"


def switch(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _word_or_words(value: Any) -> str | None:
    return word(value) and several(word)(value)


_EPSILON, _WIDTH, _HEADS = number(1e-12, 1e-2), whole(1, 2**20), whole(1, 2**14)
LANGUAGE_RULES: dict[str, Rule] = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": whole(1, 1000),
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": _HEADS,
    "intermediate_size": _WIDTH,
    "vocab_size": whole(1, 2**24),
    "max_position_embeddings": whole(1, 2**31),
    "rms_norm_eps": _EPSILON,
    "rope_theta": number(1, 1e12),
    "hidden_act": word,
    "attention_bias": switch,
    "tie_word_embeddings": switch,
    "use_sliding_window": switch,
    **dict.fromkeys((*EDIT_CONNECTORS, "only_use_und_image_vae_as_noise"), switch),
}
TRANSFORMER_RULES: dict[str, Rule] = {
    "in_channels": whole(1, 2**14),
    "out_channels": whole(1, 2**14),
    "num_layers": whole(1, 1000),
    "num_attention_heads": _HEADS,
    "attention_head_dim": _HEADS,
    "num_cross_attention_heads": _HEADS,
    "cross_attention_head_dim": _HEADS,
    "cross_attention_dim": _WIDTH,
    "caption_channels": _WIDTH,
    "mlp_ratio": number(0.01, 1000),
    "patch_size": whole(1, 64),
    "sample_size": whole(1, 1024),
    "norm_eps": _EPSILON,
    "interpolation_scale": number(1e-3, 1e3),
    "timestep_scale": number(1e-3, 1e5),
    "qk_norm": word,
    "dropout": number(0, 1),
    "attention_bias": switch,
    "guidance_embeds": switch,
}
_AUTOENCODER_LISTS: dict[str, Rule] = {
    "block_out_channels": several(whole(1, 2**16)),
    "layers_per_block": several(whole(0, 200)),
    "qkv_multiscales": several(several(whole(1, 99), least=0)),
    "block_types": _word_or_words,
}
AUTOENCODER_RULES: dict[str, Rule] = {
    "latent_channels": whole(1, 2**14),
    "in_channels": whole(1, 64),
    "attention_head_dim": _HEADS,
    "scaling_factor": number(1e-4, 1e4),
    "encoder_act_fns": _word_or_words,
    "decoder_act_fns": _word_or_words,
    "decoder_norm_types": _word_or_words,
    "upsample_block_type": word,
    "downsample_block_type": word,
    **{f"{side}_{name}": rule for side in ("encoder", "decoder") for name, rule in _AUTOENCODER_LISTS.items()},
}


# null is a default there, or turns something off.
_MAY_BE_NULL = (
    "interpolation_scale", "qk_norm", "out_channels", "num_cross_attention_heads",
    "cross_attention_head_dim", "cross_attention_dim",
)  # fmt: skip


def implausible(config: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """What is wrong with the fields that are there, a line each."""
    lines = []
    for name, rule in rules.items():
        if name not in config or (config[name] is None and (name in _MAY_BE_NULL or rule is switch)):
            continue
        wanted = rule(config[name])
        if wanted:
            lines.append(f"{name} is {shown(repr(config[name]))}; it must be {wanted}")
    return lines


def require_plausible(
    config: Mapping[str, Any], fields: tuple[str, ...], rules: Mapping[str, Rule], path: Path
) -> None:
    """Raise Blip3oError that names every one of `fields` that is missing, or every value that cannot be right."""
    missing = [name for name in fields if config.get(name) is None]
    if missing:
        raise Blip3oError(
            f"{path} lacks {', '.join(missing)}, which the network is built from. Copy the file again from where the "
            "checkpoint came from."
        )
    wrong = implausible(config, rules)
    if wrong:
        raise Blip3oError(
            f"{path} cannot be right:\n{bullet_list(wrong)}\nCopy the file again from where the checkpoint came from."
        )
