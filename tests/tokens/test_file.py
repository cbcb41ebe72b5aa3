"""Image tokens in files: round trips, copies of the checkpoint, and files that hold something else."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from blip3o_core.errors import Blip3oError
from blip3o_core.files import NameTaken
from blip3o_core.models.language import PromptFeatures
from blip3o_core.pipeline import Pipeline, condition
from blip3o_core.tokens.file import KEY, load_tokens, save_tokens


@pytest.fixture
def tokens(pipeline):
    return pipeline.generate_tokens(["a red cube", "two \U0001f436 dogs\n"], [1, 2**64 - 1])


def test_a_round_trip_loses_nothing(tokens, tmp_path):
    """Catches a field that is dropped, rounded or renamed, and files that differ although the tokens are equal."""
    with_features = replace(tokens, features=PromptFeatures(torch.rand(4, 3), 5), lengths=[25, 20])
    for k, each in enumerate((tokens, with_features, replace(tokens, hidden=None, prompt_ids=None))):
        path = tmp_path / f"{k}.safetensors"
        save_tokens(path, each, {"prompt": "{}", "workflow": "[]", "a": "b"})
        found = load_tokens(path)
        for name in ("grid", "prompts", "prompt_ids", "seeds", "lengths", "codes_id", "hidden_source"):
            assert getattr(found, name) == getattr(each, name)
        assert torch.equal(found.codes, each.codes)
        assert found.hidden is each.hidden is None or torch.equal(found.hidden, each.hidden)
        if each.features is not None:
            assert torch.equal(found.features.values, each.features.values) and found.features.behind == 5
        save_tokens(tmp_path / "again.safetensors", found, {"workflow": "[]", "a": "b", "prompt": "{}"})
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_bfloat16_states_keep_their_bits(tokens, tmp_path):
    """Catches states that are saved as float32, or come back in another format."""
    half = replace(tokens, hidden=tokens.hidden.bfloat16())
    save_tokens(tmp_path / "a.safetensors", half)
    found = load_tokens(tmp_path / "a.safetensors").hidden
    assert found.dtype == torch.bfloat16 and torch.equal(found, half.hidden)


def test_a_copy_of_the_checkpoint_reads_them_without_a_pass(pipeline, tokens, copy, tmp_path, monkeypatch):
    """Catches tokens that belong to a folder's name: states would be read again, or the file refused."""
    save_tokens(tmp_path / "a.safetensors", tokens)
    other = Pipeline.load(copy.folder, dtype=torch.float32)
    monkeypatch.setattr("blip3o_core.pipeline.encode_tokens", None)  # would be called to read them again
    found = condition(other.language, load_tokens(tmp_path / "a.safetensors"), other.source)
    assert torch.equal(found.positive, condition(pipeline.language, tokens, pipeline.source).positive)


def test_a_file_is_never_overwritten_unasked(tokens, tmp_path):
    """Catches a file of another image that is lost, and a scratch file that stays."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(NameTaken):
        save_tokens(path, tokens, replace=False)
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]


def description(**changes) -> str:
    facts = {
        "version": 1, "grid": [2, 2], "prompts": ["a"], "prompt_ids": [[1]], "seeds": [0], "lengths": [4],
        "codes_id": {"num_codes": 9, "image_start": 3, "grid": [2, 2], "tokenizer": "t", "codebook": "c"},
        "hidden_source": None, "features_behind": None,
    }  # fmt: skip
    return json.dumps(facts | changes)


CODES = torch.zeros(1, 4, dtype=torch.int64)
WRONG = {
    "no description": ({"codes": CODES}, None, "holds no image tokens"),
    "another description": ({"codes": CODES}, "[]", "must be a JSON object"),
    "broken JSON": ({"codes": CODES}, "{", "cannot be read as JSON"),
    "newer": ({"codes": CODES}, description(version=2), "newer version of this pack"),
    "no codes": ({"hidden": torch.zeros(1, 5, 2)}, description(), "codes are None"),
    "float codes": ({"codes": CODES.float()}, description(), "codes are"),
    "no rows": ({"codes": CODES[:0]}, description(), "codes are"),
    "a larger grid": ({"codes": torch.zeros(1, 5, dtype=torch.int64)}, description(), "5 codes for a grid of 2x2"),
    "a negative grid": ({"codes": CODES}, description(grid=[-2, -2]), "grid is"),
    "a huge grid": ({"codes": CODES}, description(grid=[2**40, 2**40]), "grid is"),
    "a length": ({"codes": CODES}, description(lengths=[5]), "lengths are"),
    "seeds": ({"codes": CODES}, description(seeds=[0, 1]), "seeds is"),
    "true": ({"codes": CODES}, description(seeds=[True]), "seeds is"),
    "prompts": ({"codes": CODES}, description(prompts=[1]), "prompts are"),
    "prompt ids": ({"codes": CODES}, description(prompt_ids=[[-1]]), "prompt_ids is"),
    "codes_id": ({"codes": CODES}, description(codes_id={}), "codes_id is"),
    "codes_id of text": (
        {"codes": CODES},
        description(codes_id={"num_codes": "9", "image_start": 3, "grid": [2, 2], "tokenizer": "t", "codebook": "c"}),
        "codes_id.num_codes is",
    ),
    "hidden": ({"codes": CODES, "hidden": torch.zeros(1, 3, 2)}, description(), "hidden states have the shape"),
    "NaN": ({"codes": CODES, "hidden": torch.full((1, 5, 2), float("nan"))}, description(), "not finite"),
    "features": ({"codes": CODES, "features": torch.zeros(3, 2)}, description(), "features have the shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_holds_something_else_says_what(name, tmp_path):
    """Catches a stack trace, or tokens that fail much later in another node."""
    tensors, text, sentence = WRONG[name]
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {} if text is None else {KEY: text})
    with pytest.raises(Blip3oError, match=sentence):
        load_tokens(path)


def test_a_file_that_was_cut_or_is_missing_says_so(tokens, tmp_path):
    """Catches a truncated download that is read as far as it goes."""
    path = tmp_path / "a.safetensors"
    with pytest.raises(Blip3oError, match="a.safetensors"):
        load_tokens(path)
    save_tokens(path, tokens)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Blip3oError, match="a.safetensors"):
            load_tokens(path)
