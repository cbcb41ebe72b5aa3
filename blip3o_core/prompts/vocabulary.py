"""Special tokens, image codes <-> token ids, and what codes mean.

An image code `c` in [0, K) is the token `image_start + c`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import Blip3oError, shown

_CONFIG_FIELDS = {
    "image_start_tag": "image_start_tag_id",
    "image_end_tag": "image_end_tag_id",
    "scale_start": "scale_start_token_id",
    "image_start": "image_start_token_id",
    "num_codes": "num_image_tokens",
    "size": "vocab_size",
}


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of one checkpoint, all read from its config files (docs/reference.md 2.2)."""

    image_start_tag: int  # <im_start>
    image_end_tag: int  # <im_end>; sampling it does not end the image
    scale_start: int  # <S0>
    image_start: int  # <I0>
    num_codes: int  # K
    size: int  # rows of the embedding
    stop: tuple[int, ...]  # ids that end generation when text tokens may be sampled
    pad: int

    @classmethod
    def from_config(cls, config: dict, generation: dict, folder: Path) -> "Vocabulary":
        """`config`, `generation`: what config.json and generation_config.json of `folder` hold.

        Raises Blip3oError for ids that are missing or outside the vocabulary.
        """
        path = folder / "config.json"
        missing = [name for name in _CONFIG_FIELDS.values() if config.get(name) is None]
        if missing:
            first = "image_start_token_id" in missing and "num_image_tokens" in missing
            reason = "It is a config.json of BLIP3o's first generation, or of a different model." if first else ""
            raise Blip3oError(
                f"{path} lacks {', '.join(missing)}. These fields name the image tokens, and every BLIP3o-NEXT "
                f"checkpoint has them. {reason or 'Copy config.json again from where the checkpoint came from.'}"
            )
        size = config["vocab_size"]
        stop = generation.get("eos_token_id")
        stop = config.get("eos_token_id") if stop is None else stop
        stop = tuple(stop) if isinstance(stop, list) else (() if stop is None else (stop,))
        pad = generation.get("pad_token_id", config.get("pad_token_id"))
        if pad is None:
            pad = stop[-1] if stop else 0
        named = [(name, config[name]) for name in _CONFIG_FIELDS.values() if name != "vocab_size"]
        for name, id in [*named, ("pad_token_id", pad), *(("eos_token_id", id) for id in stop)]:
            if not _is_id(id, size):
                raise Blip3oError(
                    f"{folder} gives {name} as {shown(id)}, but the vocabulary has the ids 0 to {size - 1}. Copy "
                    "config.json and generation_config.json again from where the checkpoint came from."
                )
        ids = cls(**{ours: config[theirs] for ours, theirs in _CONFIG_FIELDS.items()}, stop=stop, pad=pad)
        if not ids.image_start < ids.image_start + ids.num_codes <= ids.size:
            raise Blip3oError(
                f"{path} gives the image tokens the ids {ids.image_start} to {ids.image_start + ids.num_codes - 1}, "
                f"which do not fit into a vocabulary of {ids.size}. It does not belong to these weights; copy it again."
            )
        return ids


def _is_id(value, size: int) -> bool:
    return type(value) is int and 0 <= value < size


def tokenizer_digest(content: dict) -> str:
    """What a tokenizer.json does to text, in 8 hex digits. `content`: what it holds.

    Saving it again with another release of the libraries changes the layout, what follows the ids (post_processor,
    decoder), limits of length, and fields that are off; none of that changes the ids of a prompt.
    """
    model = {key: value for key, value in content["model"].items() if value not in (None, False, "")}
    if "merges" in model:  # older releases write a pair as one text
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        model["merges"] = [list(pair) for pair in pairs]
    names = ("id", "content", "single_word", "lstrip", "rstrip", "normalized")
    added = sorted([token.get(name) for name in names] for token in content.get("added_tokens") or [])
    what = [model, added, _meaning(content.get("normalizer")), _meaning(content.get("pre_tokenizer"))]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def _meaning(component):
    """A component of a tokenizer without what changes no ids, wherever it lies in a sequence."""
    if isinstance(component, dict):
        return {key: _meaning(value) for key, value in component.items() if key != "trim_offsets"}
    return [_meaning(part) for part in component] if isinstance(component, list) else component


@dataclass(frozen=True)
class CodesId:
    """What image codes mean. Image tokens travel only between models whose ids agree, see `understands`.

    An image tokenizer that was loaded from its own file knows its codebook alone. A checkpoint without an image
    tokenizer knows everything but the codebook.
    """

    num_codes: int | None = None  # K
    image_start: int | None = None  # token id of code 0
    grid: tuple[int, int] | None = None  # (H, W)
    tokenizer: str | None = None  # see `tokenizer_digest`
    codebook: str | None = None  # digest of the codebook, see `image_tokenizer.codebook_digest`

    def understands(self, other: "CodesId") -> bool:
        """Whether a language model with this id may read codes with the other one."""
        if other.num_codes is None:
            return self.codebook in (None, other.codebook)
        return self == other

    def __str__(self) -> str:
        codebook = f"codebook {self.codebook or 'unknown'}"
        if self.grid is None:
            return codebook
        height, width = self.grid
        return (
            f"{self.num_codes} codes from token {self.image_start} on {height}x{width}, tokenizer {self.tokenizer}, "
            f"{codebook}"
        )
