"""Prompt files as people save them, and their faults: each is named with its file and line, and all of them at once."""

import json
from pathlib import Path

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.items import find_file, make_items, read_entries

PROMPTS = ["a red fox", "una niña, “hola”\u2028", "写着“你好”的牌子"]


def written(kind: str, prompts) -> str:
    if kind == ".jsonl":
        return "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
    if kind == ".json":
        return json.dumps([{"prompt": prompt} for prompt in prompts], indent=2, ensure_ascii=False)
    if kind == ".csv":
        return "prompt\n" + "".join('"' + prompt.replace('"', '""') + '"\n' for prompt in prompts)
    return "".join(prompt + "\n" for prompt in prompts)


def items_of(path):
    return make_items(read_entries(path), lambda number, entry: Item(f"{number:05d}", entry.text("prompt")))


@pytest.mark.parametrize("change", ["", "crlf", "cr", "mark", "blank lines", "no last end"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
def test_a_file_has_the_same_prompts_however_it_was_saved(tmp_path, kind, change):
    """Catches "\\r" or a byte-order mark in a prompt, a line cut at U+2028, and a blank line that becomes an item."""
    text = written(kind, PROMPTS)
    if change == "blank lines":
        text = text.replace("\n", "\n \n")
    if change == "no last end":
        text = text.rstrip("\n")
    data = text.replace("\n", {"crlf": "\r\n", "cr": "\r"}.get(change, "\n")).encode(
        "utf-8-sig" if change == "mark" else "utf-8"
    )
    path = tmp_path / f"prompts{kind}"
    path.write_bytes(data)
    expected = [prompt.strip() for prompt in PROMPTS] if kind == ".txt" else PROMPTS
    assert [(item.id, item.prompt) for item in items_of(path)] == [(f"{n:05d}", p) for n, p in enumerate(expected)]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", b"", "a.jsonl contains no prompts"),
        ("a.json", b" \n", "a.json contains no prompts"),
        ("a.json", b"[]", "a.json contains no prompts"),
        ("a.csv", b"prompt\n", "a.csv contains no prompts"),
        ("a.txt", b"\n \n", "a.txt contains no prompts"),
        ("a.yaml", b"prompt: a", "ending '.yaml'"),
        ("a.txt", "a\nä".encode("latin-1"), "a.txt, line 2, is not UTF-8"),
        ("a.jsonl", '{"prompt": "a"}'.encode("utf-16"), "looks like UTF-16"),
        ("a.json", b'{"prompt": "a"}', "must contain a list of objects"),
        ("a.json", b'"a"', "must contain a list of objects"),
        ("a.json", b'{"prompt": "a"}\n{"prompt": "b"}', "ending .jsonl"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'[{"prompt": "a"}, {"prompt": "b"', "cannot be read as JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "b"\n', "a.jsonl, line 2: it cannot be read as JSON"),
        ("a.jsonl", b'{"prompt": "a", "prompt": "b"}', "line 1: .*stands in one object twice"),
        ("a.jsonl", b'\n["a"]', r"line 2: it is \['a'\]. It must be a JSON object"),
        ("a.jsonl", b'{"Prompt": "a"}', "line 1: the field 'prompt' is missing. Did you mean Prompt"),
        ("a.jsonl", b"{}", "the field 'prompt' is missing. It has none"),
        ("a.jsonl", b'{"prompt": 3}', "line 1: prompt is 3. It must be text"),
        ("a.jsonl", b'{"prompt": null}', "prompt is None"),
        ("a.jsonl", b'{"prompt": " "}', "prompt is ' '"),
        ("a.jsonl", b'{"prompt": "\\ud800"}', "half a character"),
        ("a.json", b'[\n {"prompt": "a"},\n\n {"a": "b",\n "x": 1}, {"b": 1}]', "(?s)line 4: .*line 5: the field"),
        ("a.json", b'{"one": {"prompt": "a"},\n "two": 3}', "line 2: it is 3"),
        ("a.csv", b'id,prompt\n1,"a\nb"\n2,c,d\n', "line 4: it has 3 cells for 2 columns"),
        ("a.csv", b"id,prompt\n1,\n", "line 2: the field 'prompt' is missing"),
        ("a.csv", b"id;prompt\n1;a\n", "line 1, has ';' between its columns"),
        ("a.csv", b'prompt\n"a\n', "is not CSV"),
        ("a.csv", b"prompt,prompt\na,b\n", "line 1, names the column 'prompt' twice"),
    ],
)  # fmt: skip
def test_a_faulty_file_says_where(tmp_path, name, data, says):
    """Catches a stack trace, a fault without its line, and a fault that becomes a prompt."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(Blip3oError, match=says):
        items_of(path)


def test_faults_of_a_file_in_the_folder_of_the_command(tmp_path, monkeypatch):
    """Catches "Faulty prompts in .", which names no folder."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("{}")
    with pytest.raises(Blip3oError, match=r"^Faulty prompts:\n  a.jsonl, line 1: "):
        items_of(Path("a.jsonl"))


def test_all_faults_are_named_at_once_up_to_ten(tmp_path):
    """Catches a user who has to start a command once for each wrong line."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": 1}\n' * 5 + '{"prompt": "a"}\n{"prompt"\n' * 20)
    with pytest.raises(Blip3oError, match="Faulty prompts in") as error:
        items_of(path)
    assert [line.split(": ")[0].strip() for line in str(error.value).splitlines()[1:8]] == [
        *(f"a.jsonl, line {line}" for line in (1, 2, 3, 4, 5, 7, 9)),
    ]
    assert str(error.value).endswith("and 15 more")


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", "b", "A"], "line 3: the id 'A' is that of a.jsonl, line 1, too"),
        (["a/b"], "the id is 'a/b'"),
        ([".."], "the id is '..'"),
        ([".a"], "must not begin with a dot"),
        (["a" * 101], "1 to 100"),
        ([""], "It must be text"),
        (["ä"], "the id is"),
    ],
)
def test_ids_that_cannot_name_files_are_refused(tmp_path, ids, says):
    """Catches an image outside of the run's folder, and two items that share a file."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": one}) + "\n" for one in ids))
    with pytest.raises(Blip3oError, match=says):
        make_items(read_entries(path), lambda number, entry: Item(entry.text("id"), "a fox"))


def test_numbers_and_lists_of_texts_are_checked(tmp_path):
    """Catches "3" or true taken for a number, and a text taken for a list of its letters."""
    path = tmp_path / "a.jsonl"
    lines = [{"n": 3, "t": ["a"]}, {"n": "x"}, {"n": True}, {"n": 1.0}, {"n": 1, "t": "abc"}, {"n": 1, "t": [1]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, *others = read_entries(path)
    assert first.whole("n") == 3 and first.texts("t") == ["a"]
    for entry in others[:3]:
        with pytest.raises(Blip3oError, match="whole number"):
            entry.whole("n")
    for entry in others[3:]:
        with pytest.raises(Blip3oError, match="list of texts"):
            entry.texts("t")
    table = tmp_path / "a.csv"
    table.write_text("n\n 12 \n")
    assert read_entries(table)[0].whole("n") == 12


def test_entries_of_an_object_have_their_names(tmp_path):
    """Catches keys that are lost: benchmarks name their images by them."""
    path = tmp_path / "a.json"
    path.write_text('\n{"k1":\n {"prompt": "a, [b]"}, "k2": {"prompt": "c"}}')
    assert [(one.key, one.place, one.values["prompt"]) for one in read_entries(path)] == [
        ("k1", "line 2", "a, [b]"),
        ("k2", "line 3", "c"),
    ]


def test_a_folder_of_texts_is_read_in_the_order_of_its_numbers(tmp_path):
    """Catches "10" before "2", hidden files of macOS read as prompts, and a damaged file that is left out silently."""
    for name, text in {
        "10.txt": "ten ",
        "2.txt": "two  words\n",
        "._2.txt": "\0",
        "x1.txt": "x",
        "notes.md": "n",
    }.items():
        (tmp_path / name).write_text(text)
    assert [(one.key, one.text("prompt")) for one in read_entries(tmp_path)] == [
        ("2", "two  words"),
        ("10", "ten"),
        ("x1", "x"),
    ]
    (tmp_path / "3.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "4.txt").write_text("")
    with pytest.raises(Blip3oError, match="(?s)3.txt: .*UTF-16.*4.txt: prompt is ''"):
        items_of(tmp_path)


def test_a_file_is_found_in_the_folder_of_its_benchmark(tmp_path):
    """Catches a user who has to know where in a repository the prompts are, and a message without the next step."""
    (tmp_path / "prompts").mkdir()
    file = tmp_path / "prompts" / "a.jsonl"
    file.write_text("")
    assert find_file(tmp_path, ["a.jsonl", "prompts/a.jsonl"], "") == find_file(file, ["a.jsonl"], "") == file
    for data, says in (
        (None, "not part of this project. Get it"),
        (tmp_path / "b", "does not exist. Get it"),
        (tmp_path, "no c.jsonl. Get it"),
    ):
        with pytest.raises(Blip3oError, match=says):
            find_file(data, ["c.jsonl"], "Get it.")
