"""Token ids from config files, and what image codes mean."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.prompts.vocabulary import CodesId, Vocabulary


def test_ids_are_read_from_the_config():
    """Catches ids of the published model built in, and fields mixed up."""
    draw = random.Random(1)
    for _ in range(20):
        start, codes = draw.randrange(10, 10**6), draw.randrange(1, 10**6)
        config = {
            "image_start_tag_id": start - 5, "image_end_tag_id": start - 4, "scale_start_token_id": start - 3,
            "image_start_token_id": start, "num_image_tokens": codes, "vocab_size": start + codes + draw.randrange(9),
        }  # fmt: skip
        ids = Vocabulary.from_config(config, {"eos_token_id": [7, 9], "pad_token_id": 9}, Path("x"))
        assert (ids.image_start_tag, ids.image_end_tag, ids.scale_start) == (start - 5, start - 4, start - 3)
        assert (ids.image_start, ids.num_codes, ids.size) == (start, codes, config["vocab_size"])
        assert (ids.stop, ids.pad) == ((7, 9), 9)
        assert Vocabulary.from_config(config | {"eos_token_id": 5}, {}, Path("x")).stop == (5,)


def test_missing_and_impossible_ids_are_refused(config):
    """Catches a KeyError, or ids outside the embedding that fail deep inside it."""
    fields = [name for name in config if name.endswith(("_tag_id", "start_token_id")) or name == "num_image_tokens"]
    with pytest.raises(Blip3oError, match="config.json") as caught:
        Vocabulary.from_config({"vocab_size": 5}, {}, Path("folder"))
    assert all(name in str(caught.value) for name in fields), fields
    with pytest.raises(Blip3oError, match="vocabulary of 300"):
        Vocabulary.from_config(config | {"vocab_size": 300}, {}, Path("folder"))


def test_codes_are_understood_by_what_they_mean():
    """Catches tokens of another model accepted, and a TA-Tok file refused by a checkpoint that brings none."""
    ours = CodesId(96, 300, (5, 7), "aaaa", "bbbb")
    for name, value in (("num_codes", 6), ("image_start", 0), ("grid", (7, 5)), ("tokenizer", "b"), ("codebook", "b")):
        assert not ours.understands(replace(ours, **{name: value})), name
    alone, blind = CodesId(codebook="bbbb"), replace(ours, codebook=None)
    assert ours.understands(replace(ours)) and ours.understands(alone) and blind.understands(alone)
    assert not ours.understands(replace(alone, codebook="b")) and not ours.understands(blind)
    assert str(ours) == "96 codes from token 300 on 5x7, tokenizer aaaa, codebook bbbb"
    assert str(alone) == "codebook bbbb" and str(blind).endswith("codebook unknown")
