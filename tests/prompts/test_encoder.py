"""Prompt strings and token ids, on a byte-level tokenizer with learned merges: without merges, cutting a text anywhere
gives the same ids and nothing here could fail."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blip3o_core.compat import call_references_one_image
from blip3o_core.errors import Blip3oError
from blip3o_core.prompts.encoder import PromptEncoder
from blip3o_core.prompts.vocabulary import Vocabulary

PROMPTS = [
    "a red cube", " leading space", "trailing space ", "two  spaces\n\nand lines\r\n", "\n", " ", "x", "1234567890",
    "a cat, a dog & 3 birds (blue)", "naïve café", "e\u0301 decomposed", "\u0301 combining first", "日本の城",
    "🦊🏔️👩\u200d🚀",
    "{prompt} {0} %s \\n", "user\nassistant\n", "<|im_end", "im_start|>", "< S0 >", "\u00a0nbsp\u3000wide", "\x00\x1f",
]  # fmt: skip
SPECIAL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<im_start>", "<im_end>", "<S0>", "<I0>", "<I7>", "<I95>"]
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease generate image based on the "
    "following caption: {}<|im_end|>\n<|im_start|>assistant\n<im_start><S0>"
)


def whole(prompt: str) -> str:
    return TEMPLATE.replace("{}", prompt)


@pytest.fixture(scope="module")
def limited(tiny, tmp_path_factory):
    """limit in tokens -> an encoder whose tokenizer merges letters, spaces, newlines and punctuation."""
    from tokenizers import Tokenizer, trainers

    text = (tiny / "tokenizer.json").read_text()
    table = json.loads(text)
    learned = Tokenizer.from_str(json.dumps(table | {"added_tokens": []}))
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(table["model"]["vocab"]), show_progress=False)
    learned.train_from_iterator([whole(prompt) for prompt in PROMPTS] * 3, trainer)
    table["model"] = json.loads(learned.to_str())["model"]
    first = len(table["model"]["vocab"])
    for k, token in enumerate(table["added_tokens"]):
        token["id"] = first + k
    folder = tmp_path_factory.mktemp("merging")
    (folder / "tokenizer.json").write_text(json.dumps(table))
    ids = {token["content"]: token["id"] for token in table["added_tokens"]}
    vocabulary = Vocabulary(
        ids["<im_start>"], ids["<im_end>"], ids["<S0>"], ids["<I0>"], 96, ids["<I95>"] + 1,
        stop=(ids["<|im_end|>"],), pad=ids["<|endoftext|>"],
    )  # fmt: skip
    return lambda limit: PromptEncoder(folder, vocabulary, limit)


@pytest.fixture(scope="module")
def merging(limited) -> PromptEncoder:
    return limited(10_000)


@pytest.fixture(scope="module")
def full(merging):
    """The tokenizer itself, as the authors call it: special tokens parsed wherever they are."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(merging._full.to_str())
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_tokenised_as_the_whole_string(prompt, merging, full):
    """Catches template pieces tokenised apart where the tokenizer would have merged across the cut."""
    assert merging.encode(prompt) == full(whole(prompt))
    assert merging.encode(prompt, parse_special=True) == full(whole(prompt))


def test_random_text_is_tokenised_as_the_whole_string(merging, full):
    """Catches texts nobody thought of: any mix of letters, marks, spaces, line ends and punctuation."""
    draw = random.Random(0)
    alphabet = "aeiou tns  \n\r\t.,:;-'\"0123é\u0301\u0308字ñß😀\u200d\u00a0\u2028"
    for _ in range(300):
        prompt = "".join(draw.choices(alphabet, k=draw.randrange(1, 24)))
        assert merging.encode(prompt) == full(whole(prompt)), repr(prompt)


def test_the_merging_tokenizer_notices_a_cut(full):
    """Catches a tokenizer of these tests that could not tell a wrong cut from the right one."""
    assert full("caption: ") + full("red") != full("caption: red")


@pytest.mark.parametrize("prompt", ["half an emoji \ud83d", "\udcff"])
def test_text_that_is_no_unicode_is_refused(prompt, merging):
    """Catches a TypeError from the tokenizer: browsers and command lines can cut a character in two."""
    for parse in (False, True):
        with pytest.raises(Blip3oError, match="prompt"):
            merging.encode(prompt, parse)


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("pattern", ["{}", "a {} b", "x{}", "{}{}"])
def test_special_tokens_in_a_prompt_are_text(token, pattern, merging):
    """Catches a prompt that ends its own turn, or starts the picture early, by spelling a token."""
    prompt = pattern.replace("{}", token)
    ids = merging.encode(prompt)
    added = [id for id in ids if id >= merging._full.token_to_id("<|endoftext|>")]
    assert added == [id for id in merging.encode("plain") if id >= merging._full.token_to_id("<|endoftext|>")]
    assert merging._full.decode(ids, skip_special_tokens=False) == whole(prompt)


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_are_parsed_on_request(token, merging, full):
    """Catches a parse_special that does nothing: then the authors' results could not be repeated."""
    ids = merging.encode(f"a {token} b", parse_special=True)
    id = merging._full.token_to_id(token)
    assert ids == full(whole(f"a {token} b"))
    assert ids.count(id) == merging.encode("a b").count(id) + 1


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(limited):
    """Catches silent truncation, which costs the authors' call its <im_start><S0>, and an off-by-one at the limit."""
    prompt = "seven brown foxes jump over a lazy dog"
    length = len(limited(10_000).encode(prompt))
    exact, short = limited(length), limited(length - 1)
    for parse in (False, True):
        assert exact.encode(prompt, parse)[-1] == exact.vocabulary.scale_start
        with pytest.raises(Blip3oError, match=rf"\b{length}\b.*\b{length - 1}\b"):
            short.encode(prompt, parse)


def test_the_prompt_ends_with_the_picture_start(checkpoint, config):
    """Catches a prompt through which the model would go on writing text."""
    ids = checkpoint.prompt_encoder.encode("a red cube")
    assert ids[-2:] == [config["image_start_tag_id"], config["scale_start_token_id"]]


@pytest.mark.parametrize(
    "change",
    [{"image_start": 1}, {"scale_start": -1}, {"image_start_tag": 1}, {"num_codes": 1}],
    ids=lambda change: next(iter(change)),
)
def test_a_tokenizer_that_disagrees_with_the_config_is_refused(change, checkpoint):
    """Catches image tokens fed under wrong ids because the tokenizer belongs to another checkpoint."""
    [(name, by)] = change.items()
    other = replace(checkpoint.vocabulary, **{name: getattr(checkpoint.vocabulary, name) + by})
    with pytest.raises(Blip3oError, match="tokenizer") as caught:
        PromptEncoder(checkpoint.folder, other, 200)
    assert "config.json" in str(caught.value)


def test_a_tokenizer_without_image_tokens_is_refused(copy):
    """Catches the base model's tokenizer put beside the checkpoint: its prompts would tokenise without complaint."""
    table = json.loads((copy.folder / "tokenizer.json").read_text())
    table["added_tokens"] = [token for token in table["added_tokens"] if not re.match("<[IS]", token["content"])]
    (copy.folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(Blip3oError, match="<S0>|<I0>"):
        _encoder(copy.folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": null}', "\udcff\udcfe"])
def test_a_damaged_tokenizer_is_named(content, copy):
    """Catches a library's bare exception where the user needs to know which file to copy again."""
    (copy.folder / "tokenizer.json").write_text(content, errors="surrogateescape")
    with pytest.raises(Blip3oError, match="tokenizer.json"):
        _encoder(copy.folder)


def test_vocab_and_merges_files_do_as_well(copy, checkpoint):
    """Catches checkpoints refused, or read differently, because only the slow tokenizer's files were saved."""
    table = json.loads((copy.folder / "tokenizer.json").read_text())
    (copy.folder / "vocab.json").write_text(json.dumps(table["model"]["vocab"]))
    (copy.folder / "merges.txt").write_text("#version: 0.2\n")
    added = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in table["added_tokens"]}
    copy.edit_json("tokenizer_config.json", added_tokens_decoder=added)
    (copy.folder / "tokenizer.json").unlink()
    encoder = _encoder(copy.folder)
    for prompt in PROMPTS:
        assert encoder.encode(prompt) == checkpoint.prompt_encoder.encode(prompt), repr(prompt)


def _encoder(folder: Path) -> PromptEncoder:
    from blip3o_core.checkpoint import open_checkpoint

    return open_checkpoint(folder).prompt_encoder


EDIT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease edit {images} according to "
    "the following instruction: {}.\n<|vision_start|>{tokens}<|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    "<im_start><S0>"
)


@pytest.mark.parametrize(
    "count, authors, images", [(1, False, "this image"), (2, False, "these images"), (2, True, "this image")]
)
def test_an_edit_is_tokenised_as_the_whole_string(count, authors, images, limited, full):
    """Catches references in another order or place, their number in the wrong words, and a cut in the instruction."""
    encoder = limited(10_000)
    if authors:
        call_references_one_image(encoder)
    codes = torch.tensor([[5, 0, 95, 7], [1, 2, 3, 4]])[:count]
    tokens = "".join(f"<I{code}>" for code in codes.flatten().tolist())
    for prompt in PROMPTS:
        string = EDIT.replace("{images}", images).replace("{tokens}", tokens).replace("{}", prompt)
        for parse in (False, True):
            ids = encoder.encode_edit(prompt, codes, parse)
            assert ids == full(string)
            assert encoder._full.decode(ids[encoder.reference_span(ids, codes.numel())]) == tokens


def test_an_edit_that_is_too_long_is_refused(limited):
    """Catches references that push the start of the picture out of the prompt: the message says what they take."""
    codes = torch.zeros(2, 25, dtype=torch.long)
    needed = len(limited(10_000).encode_edit("x", codes))
    assert len(limited(needed).encode_edit("x", codes)) == needed
    with pytest.raises(Blip3oError, match=f"{needed} tokens long, 52 of them for 2 reference images"):
        limited(needed - 1).encode_edit("x", codes)
