"""The texts of the nodes in other languages: complete, as new as the English ones, and with every value kept."""

import json
import re

import pytest

from tests.support.paths import TOP
from tools import translations

ENGLISH = translations.texts(translations.ENGLISH)
EXPECTED = ["es", "fr", "ja", "ko", "zh"]
# Names that are the same word in another language, as ComfyUI's own interface has them.
SAME = set("checkpoint code image images latent original prompt sigmas token tokens top_k top_p vae".split())
# What has to be typed or chosen as it is: a quoted value, a file, a folder, a control token.
VALUES = re.compile(r"(?<!\w)'[^']+'(?!\w)|[\w/]+\.(?:pth|json)|\.pth|models/blip3o|<[^<>]+>|TA-Tok|bf16|LoRA")
NUMBERS = re.compile(r"(?<![A-Za-z])\d+(?:\.\d+)?")


def test_every_language_says_what_english_says_now():
    """Catches a text that is missing, left over, or not translated again after the English one changed."""
    assert translations.languages() == EXPECTED
    assert not translations.left_to_do(), "translate these, then run `python -m tools.translations --done LANGUAGE`"


@pytest.mark.parametrize("language", EXPECTED)
def test_values_and_numbers_are_kept(language):
    """Catches a translated option value, a mistyped number, or a file name that nobody finds."""
    for key, text in translations.texts(language).items():
        missing = [value for value in VALUES.findall(ENGLISH[key]) if value not in text]
        assert not missing, (key, missing)
        assert set(NUMBERS.findall(text)) == set(NUMBERS.findall(ENGLISH[key])), (key, text)


@pytest.mark.parametrize("language", EXPECTED)
def test_nothing_is_left_in_english(language):
    """Catches a text that was copied and forgotten."""
    left = {key: text for key, text in translations.texts(language).items() if text == ENGLISH[key]}
    assert not {key: text for key, text in left.items() if text not in SAME}


@pytest.mark.parametrize("language", EXPECTED)
def test_texts_are_no_message_syntax(language):
    """Catches a name or description with a character that ComfyUI's page reads as a placeholder or a plural."""
    for key, text in translations.texts(language).items():
        assert text.strip() == text and text, key
        assert key.endswith(".tooltip") or not set("{}@|") & set(text), (key, text)


def test_a_changed_english_text_is_reported(tmp_path, monkeypatch):
    """Catches a check that compares keys only: a tooltip would keep saying what is no longer true."""
    for language, text in (("en", "A new text."), ("zh", "旧的文字。")):
        (tmp_path / language).mkdir()
        nodes = {"Node": {"description": text}} | ({"Gone": {"description": text}} if language == "zh" else {})
        (tmp_path / language / "nodeDefs.json").write_text(json.dumps(nodes), encoding="utf-8")
        (tmp_path / language / "main.json").write_text("{}", encoding="utf-8")
    record = tmp_path / "translated_from.json"
    record.write_text(json.dumps({"zh": {"Node.description": translations.digest("An old text.")}}))
    monkeypatch.setattr(translations, "LOCALES", tmp_path)
    monkeypatch.setattr(translations, "TRANSLATED_FROM", record)
    assert translations.left_to_do() == [
        "zh: Gone.description is not in English: remove it",
        "zh: Node.description is older than the English text: A new text.",
    ]
    translations.main(["--done", "zh"])
    assert translations.left_to_do() == ["zh: Gone.description is not in English: remove it"]


def test_every_node_has_a_chinese_help_page():
    """Catches a page that was forgotten, or that names other inputs, values and files than the English one."""
    titles = translations.texts("zh")
    for page in sorted((TOP / "web" / "docs").glob("*.md")):
        english, chinese = (file.read_text(encoding="utf-8") for file in (page, page.with_suffix("") / "zh.md"))
        assert chinese.startswith(f"# {titles[f'{page.stem}.display_name']}\n"), page.name
        assert set(re.findall(r"`[^`]+`", chinese)) == set(re.findall(r"`[^`]+`", english)), page.name
        assert chinese.count("\n- ") == english.count("\n- "), page.name


def test_the_chinese_readme_follows_the_english_one():
    """Catches a section, a command, a link or a figure that only one of them has."""
    english, chinese = ((TOP / name).read_text(encoding="utf-8") for name in ("README.md", "README_ZH.md"))
    links, code = r"\]\(([^)]+)\)", r"`[^`\n]+`"
    assert set(re.findall(links, chinese)) - {"README.md"} == set(re.findall(links, english)) - {"README_ZH.md"}
    assert set(re.findall(code, chinese)) == set(re.findall(code, english))
    for marks in (r"^#+ ", r"^\|", r"^- ", r"^\d\. "):
        assert len(re.findall(marks, chinese, re.M)) == len(re.findall(marks, english, re.M)), marks
    prose = [re.sub(rf"{links}|{code}", "", text) for text in (chinese, english)]
    assert set(NUMBERS.findall(prose[0])) == set(NUMBERS.findall(prose[1]))
