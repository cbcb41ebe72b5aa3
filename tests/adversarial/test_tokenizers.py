"""Tokenizers from the internet, and prompts that break a good one: patterns that never end, text that grows, panics."""

import copy
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.errors import Blip3oError
from tests.support.attacks import BUNDLED, Attack, attacks, check, copy_of_bundled, generate


@cache
def bundled() -> dict:
    return json.loads((BUNDLED / "tokenizer.json").read_text())


def raw(content: bytes | Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """tokenizer.json in place of the bundled one: these bytes, or what a function makes at its path."""

    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        path = folder / "tokenizer.json"
        path.unlink()
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
        return generate(folder)

    return prepare


def changed(change: Callable[[dict], object], prompt: str = "a" * 60 + "!") -> Callable[[Path], list[str]]:
    """The bundled tokenizer after `change`."""

    def prepare(place: Path) -> list[str]:
        folder, content = copy_of_bundled(place), copy.deepcopy(bundled())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return generate(folder, prompt=prompt)

    return prepare


def part(name: str, value: object) -> Callable[[Path], list[str]]:
    return changed(lambda content: content.update({name: value}))


def pattern(regex: str) -> Callable[[Path], list[str]]:
    return changed(lambda content: content["pre_tokenizer"].update(pattern={"Regex": regex}))


def model(**changes: object) -> Callable[[Path], list[str]]:
    return changed(lambda content: content["model"].update(changes))


def word(name: str, id: object) -> Callable[[Path], list[str]]:
    return changed(lambda content: content["model"]["vocab"].update({name: id}))


def token(name: str, **changes: object) -> Callable[[Path], list[str]]:
    """The added token of that name with changes."""

    def change(content: dict) -> None:
        next(token for token in content["added_tokens"] if token["content"] == name).update(changes)

    return changed(change)


def bpe(**changes: object) -> Callable[[Path], list[str]]:
    return part("model", {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [], **changes})


def slow_files(place: Path, **files: str | bytes) -> list[str]:
    folder = copy_of_bundled(place)
    (folder / "tokenizer.json").unlink()
    for name, content in files.items():
        path = folder / name.replace("_txt", ".txt").replace("_json", ".json")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return generate(folder)


def slow_with_a_pipe(place: Path) -> list[str]:
    words = slow_files(place, vocab_json="{}")
    os.mkfifo(place / "model" / "merges.txt")
    return words


def slow_with_tokens_in_a_list(place: Path) -> list[str]:
    return slow_files(place, vocab_json="{}", merges_txt="", tokenizer_config_json='{"added_tokens_decoder": [1]}')


def remote_code(place: Path) -> list[str]:
    """What makes transformers' own factory offer to run a module of the checkpoint."""
    words = slow_files(place, vocab_json="{}", merges_txt="", evil_py="open('PWNED.png', 'w')")
    (place / "model" / "evil_py").rename(place / "model" / "evil.py")
    classes = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (place / "model" / "tokenizer_config.json").write_text(json.dumps(classes))
    return words


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 30}
ENDLESS = {"Regex": "(a+)+$"}
QWENS = {"type": "Split", "pattern": ENDLESS, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
NESTED = '{"type":"Sequence","normalizers":[' * 200 + "]}" * 200
COPY = r"Copy tokenizer\.json again"
USED = rf"cannot be used: .*{COPY}"


def endless_then_known() -> str:
    return r"(a+)+$|" + bundled()["pre_tokenizer"]["pattern"]["Regex"]


def named(says: str, make: Callable, **cases: object) -> list[Attack]:
    """An attack for each keyword: `make` of its value, all answered alike."""
    return [Attack(name.replace("_", " "), make(value), says) for name, value in cases.items()]


PATTERN = named(
    rf"tokenizer\.json has the pre_tokenizer .*Only Qwen's pattern.*{COPY}",
    lambda value: pattern(value) if isinstance(value, str) else part("pre_tokenizer", value),
    a_pattern_that_never_ends=r"(a+)+$|(a*)*b",
    another_that_never_ends=r"(?:a|aa|aaa)+$",
    an_invalid_pattern="([",
    a_pattern_of_many_letters=r"((a{1000}){1000}){1000}",
    one_that_never_ends_before_the_known=endless_then_known(),
    a_pattern_that_is_a_number={"type": "Split", "pattern": 5, "behavior": "Removed", "invert": True},
    a_list_as_pre_tokenizer=[1],
    no_pre_tokenizer=None,
    qwens_sequence_with_a_bad_pattern={"type": "Sequence", "pretokenizers": [QWENS, BYTES]},
    a_sequence_of_sequences={"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": []}] * 2},
)
NORMALIZER = named(
    rf"tokenizer\.json has the normalizer .*Only NFC and Lowercase are allowed.*{COPY}",
    lambda value: part("normalizer", value),
    replacements_that_multiply_text={"type": "Sequence", "normalizers": [REPLACE] * 7},
    a_replacement_that_never_ends={"type": "Replace", "pattern": ENDLESS, "content": ""},
    a_character_map_of_garbage={"type": "Precompiled", "precompiled_charsmap": "/////w=="},
    a_short_character_map={"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    a_character_map_that_points_outside={"type": "Precompiled", "precompiled_charsmap": "CAAAAP////////8/YQBi"},
    a_prefix_of_10_MB={"type": "Prepend", "prepend": "a" * 10**7},
    a_normalizer_that_is_text="NFC",
    nested_normalizers=json.loads(NESTED),
)
OUTSIDE = named(
    rf"gives '.*' the id .*, but this model has the ids 0 to 9423\. It belongs to a different.*{COPY}",
    lambda change: changed(lambda content: change(content["model"]["vocab"], content["added_tokens"])),
    a_word_beyond_the_embedding=lambda words, tokens: words.update(red=10**6),
    a_word_one_beyond_the_embedding=lambda words, tokens: words.update(red=9424),
    a_negative_id=lambda words, tokens: words.update(red=-1),
    an_id_that_is_a_fraction=lambda words, tokens: words.update(red=1.5),
    an_id_that_is_true=lambda words, tokens: words.update(red=True),
    an_id_that_is_text=lambda words, tokens: words.update(red="5"),
    a_token_far_beyond_the_embedding=lambda words, tokens: tokens[2].update(id=10**9),
    a_token_beyond_32_bits=lambda words, tokens: tokens[2].update(id=2**40),
    a_token_without_an_id=lambda words, tokens: tokens[2].pop("id"),
    a_token_without_text_beyond_the_embedding=lambda words, tokens: tokens.append({"content": "", "id": 9424}),
)
FILE = [
    Attack("nested 200,000 deep", raw(b"[" * 200_000), r"nested too deeply.*Copy"),
    Attack("an empty file", raw(b""), r"cannot be read as JSON.*Copy"),
    Attack("latin-1", raw(b'{"a": "\xff"}'), r"tokenizer\.json, line 1, is not UTF-8"),
    Attack("a pipe", raw(os.mkfifo), r"tokenizer\.json is a pipe, not a regular file"),
    Attack("a folder", raw(Path.mkdir), r"tokenizer\.json is a folder, not a regular file"),
    Attack("a link to /dev/zero", raw(lambda path: path.symlink_to("/dev/zero")), r"a device, not a regular file"),
    Attack(
        "a sparse file of 256 GB", raw(lambda path: path.touch() or os.truncate(path, 2**38)), r"at most 67,108,864"
    ),
    Attack("a Git LFS pointer", raw(b"version https://git-lfs.github.com/spec/v1\nsize 1\n"), r"git lfs pull"),
    *named(rf"has no model.*{COPY}", raw, an_empty_object=b"{}", null=b"null", a_list=b"[]"),
]
PARTS = [
    Attack("a decoder that multiplies text", part("decoder", REPLACE), rf"has the decoder Replace.*{COPY}"),
    Attack("a word with escape codes", word("\x1b[2J\x1b]0;x\x07", 10**6), r"\\x1b\[2J"),
    Attack("half a character as a word", word("\ud800", 5), USED),
    Attack("a token with the id of a word", token("<S0>", id=5), rf"gives '<S0>' the id 5, but.*{COPY}"),
    Attack("a token that is a word", token("<S2>", content="red"), rf"gives 'red' the id .*, but.*{COPY}"),
    Attack("tokens that are a number", part("added_tokens", 5), rf"has no added_tokens.*{COPY}"),
    Attack("a token that is a list", part("added_tokens", [[1]]), r"among its added_tokens"),
    Attack("an unk_token that is no word", model(unk_token="[NONE]"), rf"has the unk_token \[NONE\].*{COPY}"),
    Attack("words of 2^63 characters", model(max_input_chars_per_word=2**63), r"must be from 1 to 1000"),
    Attack("words of no characters", model(max_input_chars_per_word=0), r"must be from 1 to 1000"),
    Attack("no words", model(vocab={}), r"has no words"),
    Attack("words in a list", model(vocab=["a"]), r"has no words"),
    Attack("a model of another kind", model(type="Unigram"), rf"has the model Unigram.*{COPY}"),
    Attack("merges of words that are not there", bpe(merges=["a c"]), USED),
    Attack("merges of three words", bpe(merges=[["a", "b", "a"]]), USED),
    Attack("merges that are a number", bpe(merges=5), USED),
    Attack("BPE's unk_token that is no word", bpe(byte_fallback=True, unk_token="zz"), r"has the unk_token zz"),
    Attack("words dropped by chance", bpe(dropout=0.5), r"has the dropout 0\.5; Qwen's has none"),
    Attack("a vocabulary of two letters", bpe(), r"gives .* the id .*, but its other tokens make it"),
]
SLOW_FILES = [
    Attack("no tokenizer at all", slow_files, r"has no tokenizer\.json, and no vocab\.json"),
    Attack("no merges.txt", lambda place: slow_files(place, vocab_json="{}"), r"merges\.txt does not exist"),
    Attack("a pipe as merges.txt", slow_with_a_pipe, r"merges\.txt is a pipe"),
    Attack("an empty vocab.json", lambda place: slow_files(place, vocab_json="{}", merges_txt=""), r"has no words"),
    Attack("tokens in a list", slow_with_tokens_in_a_list, r"added_tokens_decoder in .* must be a mapping"),
    Attack("a checkpoint that brings code", remote_code, r"vocab\.json has no words"),
]
GROUPS = (PATTERN, NORMALIZER, OUTSIDE, FILE, PARTS, SLOW_FILES)


@attacks([attack for group in GROUPS for attack in group[:1]], [attack for group in GROUPS for attack in group[1:]])
def test_a_bad_tokenizer_is_refused_in_words(attack, tmp_path):
    """Catches patterns, replacements and ids that hang, kill or mislead the process at the first prompt."""
    check(attack, tmp_path)


UNUSED = {
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"X": {"id": "X", "ids": [10**9], "tokens": ["X"]}},
    },
    "truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10},
    "padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_a_prompt_does_not_need_changes_nothing(name, tmp_path):
    """Catches a re-saved tokenizer that cuts, pads or extends prompts, and one refused for parts nobody uses."""
    folder = copy_of_bundled(tmp_path)
    (folder / "tokenizer.json").write_text(json.dumps({**bundled(), name: UNUSED[name]}))
    changed, original = open_checkpoint(folder).prompt_encoder, open_checkpoint(BUNDLED).prompt_encoder
    for parse in (False, True):
        assert changed.encode("two red circles", parse) == original.encode("two red circles", parse)


def prompt(text: str) -> Callable[[Path], list[str]]:
    def prepare(place: Path) -> list[str]:
        (place / "prompts.txt").write_text(text)
        return ["generate", "--prompts", "prompts.txt", "--steps", "2", "--out", "images"]

    return prepare


TOO_LONG = r"The prompt has [\d,]+ characters\. This model takes 512 tokens, .* 16,384 characters.* Shorten"


@attacks(
    [Attack("12 million spaces", prompt("a" + " " * 12 * 10**6 + "b"), TOO_LONG)],
    slow=[
        Attack("12 million tabs", prompt("a" + "\t" * 12 * 10**6 + "b"), TOO_LONG),
        Attack("12 million wide spaces", prompt("a" + "\u3000" * 12 * 10**6 + "b"), TOO_LONG),
        Attack("one character too many", prompt("a" * 16_385), TOO_LONG),
    ],
)
def test_a_prompt_cannot_stop_the_tokenizer(attack, tmp_path):
    """Catches the library's panic at 10 million spaces, which no `except Exception` holds."""
    check(attack, tmp_path)


@pytest.mark.parametrize("text", ["a" + " " * 16_382 + "b", "q" * 16_384, "a" + "\u0301" * 400])
def test_prompts_as_long_as_they_may_be_are_read(text):
    """Catches a limit on characters that refuses what a few tokens can say."""
    assert len(open_checkpoint(BUNDLED).prompt_encoder.encode(text)) < 512


class _Panics:
    """A tokenizer whose Rust code panics: pyo3's exception derives from BaseException alone."""

    def __init__(self, error: BaseException):
        self.error = error

    def encode(self, *args, **kwargs):
        raise self.error


class PanicException(BaseException):
    pass


@pytest.mark.parametrize("parse_special", [False, True])
def test_a_panic_of_the_tokenizer_is_an_error_in_words(parse_special, tiny):
    """Catches a panic that ends ComfyUI's prompt worker: the queue would stand still for ever."""
    encoder = open_checkpoint(tiny).prompt_encoder
    encoder._plain = encoder._full = _Panics(PanicException("called `Result::unwrap()` on an `Err` value"))
    with pytest.raises(Blip3oError, match=r"failed on this prompt: called .*Copy tokenizer\.json"):
        encoder.encode("a red circle", parse_special)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_stopping_the_program_passes_the_tokenizer(kind, tiny):
    """Catches Ctrl-C answered with advice about tokenizer.json."""
    encoder = open_checkpoint(tiny).prompt_encoder
    encoder._plain = _Panics(kind())
    with pytest.raises(kind):
        encoder.encode("a red circle")


@pytest.mark.parametrize(
    "space", [" ", "\u0301", *(pytest.param(one, marks=pytest.mark.long) for one in ("\t", "\u3000", "\r", "'", "a"))]
)
def test_qwens_pattern_ends_on_the_longest_prompt(space, tiny):
    """Catches a limit on characters above what Qwen's own pattern can read."""
    encoder = open_checkpoint(tiny).prompt_encoder
    encoder.limit = 2**20
    with pytest.raises(Blip3oError, match="tokens long"):
        encoder.encode("a" + space * (2**20 - 2) + "b")
