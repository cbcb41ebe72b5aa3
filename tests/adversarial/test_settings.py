"""YAML that is a bomb, a class or a riddle, in a file of settings and in `key=value` words."""

import os

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.settings import Settings, Text, Texts, Whole, load_settings
from blip3o_core.yaml_reader import parse_yaml


class Example(Settings):
    guide = "docs/training.md"

    steps: Whole = 1
    out: Text = "out"
    data: Texts = ("a",)
    train: dict[str, float] | None = None


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))
ALIAS = r"an anchor \(&\) or alias \(\*\) is not allowed: write the value out"
DEEP = "it is nested more than 20 deep"
TAG = r"the tag .* is not allowed: write the value alone"

BAD_YAML = {
    "a billion laughs": (LAUGHS, ALIAS),
    "a list that holds itself": ("steps: &a [*a]", ALIAS),
    "a mapping that holds itself": ("train: &a {x: *a}", ALIAS),
    "an anchor alone": ("steps: &a 5", ALIAS),
    "an alias of nothing": ("steps: *a", ALIAS),
    "lists 100,000 deep": ("steps: " + "[" * 100_000, DEEP),
    "mappings 100,000 deep": ("steps: " + "{a: " * 50_000, DEEP),
    "lists of lines 5,000 deep": ("steps:\n" + "".join(" " * k + "-\n" for k in range(1, 700)), DEEP),
    "keys 100,000 deep": ("? " * 100_000 + "a", DEEP),
    "a class": ("steps: !!python/object/apply:os.system [touch PWNED]", TAG),
    "a set": ("data: !!set {a, b}", TAG),
    "bytes": ("out: !!binary aGVsbG8=", TAG),
    "a date by tag": ("out: !!timestamp 2024-01-01", TAG),
    "a tag with escape codes": ("out: !<\x1b[2J> a", "not allowed"),
    "a number of 5,000 digits": ("steps: " + "9" * 5000, r"a number of 5,000 characters; at most 64 make sense"),
    "a number of base 60": ("steps: 1" + ":59" * 50_000, "a number of .* characters"),
    "a name given twice": ("steps: 1\nsteps: 2", r"line 2: steps is given twice"),
    "a name given twice inside": ("train: {a: 1, a: 2}", "a is given twice"),
    "a name that is a number": ("1: 2", "1 is not a name: put it in quotes"),
    "a name that is true": ("yes: 2", "True is not a name"),
    "a name that is nothing": ("~: 2", "None is not a name"),
    "a name that is a list": ("[a, b]: 2", r"\['a', 'b'\] is not a name"),
    "a merge": ("<<: {steps: 5}", "<< is not a known setting"),
    "a zero byte": ("steps: 5\x00", r"the character '\\x00' is not allowed"),
    "escape codes": ("steps: \x1b[2J", r"the character '\\x1b' is not allowed"),
    "a tab": ("steps:\n\t- 1", r"line 2: found character '\\t'"),
    "two documents": ("steps: 1\n---\nsteps: 2", "line 2: a second document begins here"),
    "an open bracket": ("data: [a", "line 1: "),
    "a directive": ("%YAML 9.9\n---\nsteps: 1", "line 1: "),
    "text": ("hello", "contains no settings"),
    "nothing": ("", "contains no settings"),
    "a list": ("- steps: 1", "contains no settings"),
    "300 KB": ("data: [" + "a, " * 100_000 + "a]", "at most 262,144 make sense"),
    "a long unknown name": ("x" * 5000 + ": 1", r"xxx\.\.\. \(5,000 characters\) is not a known|line 1: "),
    "a long value": ("steps: " + "x" * 5000, r"steps is 'xxx.*\.\.\. \(5,002 characters\); it must be"),
    "a date for a number": ("steps: 2024-01-01", "steps is '2024-01-01'; it must be a number"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_bad_yaml_is_an_error_in_words(name, tmp_path):
    """Catches a file of settings that fills the memory, makes an object, or is read otherwise than it looks."""
    text, says = BAD_YAML[name]
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(Blip3oError, match=f"(?s)run.yaml.*{says}") as caught:
        load_settings(Example, tmp_path / "run.yaml")
    assert len(str(caught.value)) < 1000 and str(caught.value).replace("\n", "").isprintable(), str(caught.value)


@pytest.mark.parametrize("name", [name for name, (text, _) in BAD_YAML.items() if text.startswith("steps: ")])
def test_bad_words_are_an_error_in_words(name, tmp_path):
    """Catches a second, careless reader for what is typed behind the file's name."""
    (tmp_path / "run.yaml").write_text("steps: 1")
    with pytest.raises(Blip3oError) as caught:
        load_settings(Example, tmp_path / "run.yaml", [f"steps={BAD_YAML[name][0].removeprefix('steps: ')}"])
    assert len(str(caught.value)) < 1500 and str(caught.value).replace("\n", "").isprintable(), str(caught.value)


@pytest.mark.parametrize(
    "word", ["", "=", "=5", "steps", "\x1b[2J", "x" * 5000, "steps.a.b=1", "half\ud800=1", "out=\udcff"]
)
def test_words_that_set_nothing_are_an_error(word, tmp_path):
    """Catches a word that is dropped, and one that is printed as it came."""
    (tmp_path / "run.yaml").write_text("steps: 1")
    with pytest.raises(Blip3oError) as caught:
        load_settings(Example, tmp_path / "run.yaml", [word])
    assert len(str(caught.value)) < 1500 and str(caught.value).replace("\n", "").isprintable(), str(caught.value)


def test_other_files_than_text_are_refused(tmp_path):
    """Catches a pipe that is waited for."""
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(Blip3oError, match="is a pipe, not a regular file"):
        load_settings(Example, tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-4", {"a": "1e-4"}),
        ("a: [1, 2.5, true, ~, no, 0x10, '007', text]", {"a": [1, 2.5, True, None, False, 16, "007", "text"]}),
        ("a: {b: {c: x}}", {"a": {"b": {"c": "x"}}}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("a: 'it''s'  # remark", {"a": "it's"}),
        ("", None),
    ],
)
def test_plain_yaml_is_read(text, value):
    """Catches a safe reader that reads something else than YAML."""
    assert parse_yaml(text, "text", "") == value
