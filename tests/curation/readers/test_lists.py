"""Lists: a faulty line costs itself, is named by its number, and no encoding is guessed."""

import json

import pytest

from blip3o_core.curation.readers import lists
from blip3o_core.curation.readers.find import find_pieces, read
from blip3o_core.curation.readers.texts import JSON_LIMIT
from blip3o_core.curation.sample import Broken, Sample

PAIR = {"image": "a.jpg", "caption": "a"}


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    return tmp_path


def results(path, **options):
    found = [one for piece in find_pieces(str(path), options) for one in read(piece)]
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Broken)]


def written(folder, data, name="list.jsonl"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else "".join(json.dumps(one) + "\n" for one in data).encode())
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("is_list", [False, True])
def test_line_ends_marks_and_encodings_that_are_certain(folder, ends, encoding, is_list):
    """Catches a list that is refused, or read wrongly, for how an editor saved it."""
    texts = ["naïve ☃ \u2028 ਅ", 'a "quoted", [bracketed] {text}\\', "", "\U0001f600"]
    lines = [json.dumps({"image": "a.jpg", "caption": text}, ensure_ascii=False) for text in texts]
    text = f"[{ends}{f',{ends}'.join(lines)}{ends}]" if is_list else ends.join(lines) + ends + ends
    samples, broken = results(written(folder, text.encode(encoding), "list.json" if is_list else "list.jsonl"))
    assert not broken, broken
    assert [one.texts for one in samples] == [((text,) if text else ()) for text in texts]
    assert samples[3].place.endswith("entry 4" if is_list else "line 4") and samples[3].key == "00000004"


@pytest.mark.parametrize(
    "line, words",
    [
        (b'{"image": "a.jpg", "caption": "caf\xe9"}', "not utf-8 text: byte 34 is 0xe9"),
        (b'{"image": "a.jpg", "caption": ', "cannot be read as JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"image": "a.jpg", "image": "b.jpg"}', "twice"),
        (b'["a.jpg", "a"]', "is a list"),
        (b'{"picture": "a.jpg", "caption": "x"}', "Its columns: picture, caption"),
        (b'{"image": "none.jpg", "caption": "x"}', "does not exist"),
        (b'{"image": "", "caption": "x"}', "must be the path"),
        (b'{"image": 3, "caption": "x"}', "must be the path"),
        (b'{"image": ["a.jpg", "b.jpg"], "caption": "x"}', "the target is one"),
        (b'{"image": "a\\u0000.jpg", "caption": "x"}', "cannot be read"),
        (b'{"image": ".", "caption": "x"}', "a folder"),
        (b'{"image": "data:image/png;base64,iVBOR", "caption": "x"}', "image itself"),
        (b'{"image": "a.jpg", "caption": {"en": "x"}}', "must be text"),
        (b'{"image": "a.jpg", "caption": "\\ud83d"}', "half a character"),
        (json.dumps({"image": "a.jpg", "caption": "x" * 2**20}).encode(), "1,048,576 characters"),
        (b'{"image": "a.jpg", "caption": "' + b"x" * (JSON_LIMIT + 9) + b'"}', "more than 4,194,304 bytes"),
        (b'{"image": "a.jpg", "instruction": "x"}', "no reference image"),
        (b'{"image": "a.jpg", "images": ["b.jpg"], "caption": ""}', "no text"),
        (b'{"image": "a.jpg", "images": ["none.jpg"], "instruction": "x"}', "none.jpg"),
    ],
)
@pytest.mark.parametrize("is_list", [False, True])
def test_a_faulty_line_costs_itself(folder, line, words, is_list):
    """Catches one bad line that hides the others, or is not named by its number."""
    if is_list and (line.endswith(b": ") or line.startswith(b"[[")):
        pytest.skip("brackets that are not closed take what follows into the entry")
    good = json.dumps(PAIR).encode()
    parts = [good, line, good]
    data = b"[" + b",".join(parts) + b"]" if is_list else b"\n".join(parts)
    samples, broken = results(written(folder, data))
    assert [one.key for one in samples] == ["00000001", "00000003"]
    assert len(broken) == 1 and words in broken[0].reason, broken
    assert broken[0].place == f"{folder / 'list.jsonl'}, {'entry' if is_list else 'line'} 2"


def test_an_encoding_that_is_named_is_used(folder):
    """Catches an option that does not reach the lines."""
    path = written(folder, '{"image": "a.jpg", "caption": "café"}\n'.encode("latin-1"))
    assert results(path, encoding="latin-1")[0][0].texts == ("café",)


@pytest.mark.parametrize("cut", [*range(1, 73, 7), 34, 35, 36, 37, 71, 72])
def test_a_list_that_is_cut_gives_what_stands_before(folder, cut):
    """Catches a list whose end is missing that loses all of it, or is not reported."""
    data = json.dumps([PAIR, PAIR]).encode()
    samples, broken = results(written(folder, data[:cut], "list.json"))
    ends = data.index(b"}") + 1, len(data) - 1
    assert len(samples) == sum(end <= cut for end in ends) and len(broken) == (cut < len(data))


def test_pieces_of_a_list_join_to_the_whole(folder, monkeypatch):
    """Catches a line that two pieces have, or none, and numbers that start anew."""
    monkeypatch.setattr(lists, "PIECE_LINES", 7)
    entries = [{"image": "a.jpg", "caption": f"{n}" + "x" * (n * 97 % 5000)} for n in range(100)]
    variants = {
        "a.jsonl": "".join(json.dumps(one) + "\r\n" * (1 + n % 2) for n, one in enumerate(entries)).encode(),
        "b.jsonl": "\n".join(map(json.dumps, entries)).encode("utf-16"),
        "c.json": json.dumps(entries, indent=1).encode(),
        "d.json": json.dumps(entries).encode("utf-16"),
    }
    for name, data in variants.items():
        pieces = find_pieces(str(written(folder, data, name)))
        assert len(pieces) >= 15 and len({one.name for one in pieces}) == len(pieces)
        found = [one for piece in pieces for one in read(piece)]
        assert [one.texts[0] for one in found] == [one["caption"] for one in entries], name
        assert len({one.place for one in found}) == 100
        assert list(read(pieces[3])) == list(read(pieces[3]))


def test_lists_of_other_programs(folder):
    """Catches keys of common layouts that are not known, or are taken for each other."""
    rows = [
        ({"file_name": "a.jpg", "text": "t"}, ("image", b"a", (), ("t",))),
        ({"image": "a.jpg", "caption": ["s", "l"], "url": "u"}, ("image", b"a", (), ("s", "l"))),
        ({"image": "a.jpg", "images": ["b.jpg"], "instruction": "i"}, ("edit", b"a", (b"b",), ("i",))),
        ({"image": "b.jpg", "edited_image": "a.jpg", "edit_prompt": "i"}, ("edit", b"a", (b"b",), ("i",))),
        ({"input_image": "b.jpg", "output_image": "a.jpg", "instruction": "i"}, ("edit", b"a", (b"b",), ("i",))),
        ({"source": "b.jpg", "target": "a.jpg", "instruction": "i"}, ("edit", b"a", (b"b",), ("i",))),
        ({"image": "a.jpg", "text": "t", "source": "web", "output": "x"}, ("image", b"a", (), ("t",))),
        ({"image": "a.jpg"}, ("reconstruction", b"a", (), ())),
    ]
    for row, expected in rows:
        samples, broken = results(written(folder, [row]))
        assert not broken, (row, broken)
        (one,) = samples
        assert (one.kind, one.image, one.references, one.texts) == expected


def test_paths_are_relative_to_the_nearest_folder_that_has_them(tmp_path):
    """Catches a list in a folder of its own, as published sets have it, whose images are not found."""
    (tmp_path / "set" / "json").mkdir(parents=True)
    (tmp_path / "set" / "images").mkdir()
    (tmp_path / "set" / "images" / "a.jpg").write_bytes(b"a")
    path = written(tmp_path / "set" / "json", [{"image": "gone.jpg"}, {"image": "images/a.jpg", "caption": "a"}])
    samples, broken = results(path)
    assert [one.image for one in samples] == [b"a"] and len(broken) == 1
    samples, _ = results(written(tmp_path, [{"image": "a.jpg"}]), images=str(tmp_path / "set" / "images"))
    assert samples[0].image == b"a"


@pytest.mark.parametrize("data, words", [(b"", "empty"), (b"[]", "empty"), (b"\n\n", None), (b"null", "NoneType")])
def test_a_list_with_nothing_is_reported(folder, data, words):
    """Catches an empty list that passes for a finished one."""
    samples, broken = results(written(folder, data))
    assert not samples and (words is None or words in broken[0].reason)
