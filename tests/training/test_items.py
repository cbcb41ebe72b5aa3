"""Data as people have it: lists and shards of other programs are used, refused or counted, never dropped in silence."""

import io
import json
import re
import tarfile

import pytest
from PIL import Image

from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.training.data.items import Items, find_items
from blip3o_core.training.data.packed import pack
from tests.support.training_world import write_config

FILE, HARD, SYMBOLIC = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


def image(colour: str = "red", kind: str = "png") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, kind)
    return data.getvalue()


def shard(path, *members, style=tarfile.PAX_FORMAT):
    """A .tar of (name, bytes) and (name, type, what a link names)."""
    with tarfile.open(path, "w", format=style) as tar:
        for name, *content in members:
            member = tarfile.TarInfo(name)
            if len(content) == 2:
                member.type, member.linkname = content
                tar.addfile(member)
            else:
                member.size = len(content[0])
                tar.addfile(member, io.BytesIO(content[0]))
    return path


def found(path) -> Items:
    return find_items([str(path)])


RED, BLUE = image(), image("blue")
JSON = json.dumps({"caption": "red", "width": 8, "sha256": "ab", "exif": None}).encode()
# Members of a shard -> the captions of its items, in their order, and what is said of it.
SHARDS = {
    "other formats": (
        [("a.bmp", image(kind="bmp")), ("a.txt", b"red"), ("b.tif", image(kind="tiff")), ("c.GIF", image(kind="gif"))],
        [("red",), (), ()],
        None,
    ),
    "stems with dots": (
        [("img.v1.0001.png", RED), ("img.v1.0001.txt", b"red"), ("img.v1.0002.png", BLUE)],
        [("red",), ()],
        None,
    ),
    "a mask beside an image": (
        [("1.png", RED), ("1.seg.png", BLUE), ("1.txt", b"red")],
        [("red",)],
        r"1 file not used \(1 \.seg beside another image\)",
    ),
    "hard links": (
        [("pool/x", RED), ("a.png", HARD, "pool/x"), ("a.txt", b"red")],
        [("red",)],
        "1 names without an ending",
    ),
    "links to links": (
        [("x/a.png", SYMBOLIC, "../y/b.png"), ("y/b.png", SYMBOLIC, "c.png"), ("y/c.png", RED), ("x/a.txt", b"red")],
        [("red",), (), ()],
        None,
    ),
    "a link that leaves": (
        [("a.png", RED), ("b.png", SYMBOLIC, "/etc/passwd"), ("c.png", SYMBOLIC, "c.png")],
        [()],
        "2 links to what is not in",
    ),
    "captions of kohya": ([("a.jpg", image(kind="jpeg")), ("a.caption", b"red")], [("red",)], None),
    "metadata of img2dataset": (
        [("a.jpg", image(kind="jpeg")), ("a.txt", b"red"), ("a.json", JSON)],
        [("red",)],
        "1 .json beside another text",
    ),
    "json with more keys": ([("a.png", RED), ("a.json", JSON)], [("red",)], None),
    "json of null": ([("a.png", RED), ("a.json", b'{"caption": null}')], [()], None),
    "empty text": ([("a.png", RED), ("a.txt", b" \n")], [()], "1 caption without text"),
    "byte-order mark": ([("a.png", RED), ("a.txt", "\ufeffred".encode())], [("red",)], None),
    "U+2028": ([("a.png", RED), ("a.txt", "red\u2028blue".encode())], [("red\u2028blue",)], None),
    "files of macOS": (
        [("./._a.png", b"x"), ("./a.png", RED), ("./.DS_Store", b"x"), ("__MACOSX/._a.txt", b"x"), ("./a.txt", b"red")],
        [("red",)],
        None,
    ),
    "names that leave the folder": (
        [("../../a.png", RED), ("../../a.txt", b"red"), ("/b.png", BLUE), ("/b.txt", b"blue")],
        [("red",), ("blue",)],
        None,
    ),
    "a name twice": (
        [("a.png", BLUE), ("a.txt", b"blue"), ("a.txt", b"red"), ("a.png", RED)],
        [("red",)],
        "2 replaced by a later file",
    ),
    "two formats": ([("a.png", RED), ("a.jpg", BLUE), ("a.txt", b"red")], [("red",)], "1 other formats beside .png"),
    "a text alone": ([("a.png", RED), ("b.txt", b"blue")], [()], "1 texts and references without"),
    "members that are no images": (
        [("a.png", RED), ("a.cls", b"3"), ("b.npy", b"x"), ("c.npy", b"x")],
        [()],
        r"3 files not used \(2 \.npy, 1 \.cls\)",
    ),
    "a name of 300 letters": ([(f"{'x' * 300}.png", RED), (f"{'x' * 300}.txt", b"red")], [("red",)], None),
    "a folder of each": (
        [("one/0.png", RED), ("one/0.txt", b"red"), ("two/0.png", BLUE), ("two/0.txt", b"blue")],
        [("red",), ("blue",)],
        None,
    ),
}


@pytest.mark.parametrize("members, captions, said", SHARDS.values(), ids=SHARDS)
@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_members_are_used_or_counted(members, captions, said, style, tmp_path):
    """Catches images and captions that are dropped without a word: the run would train on less, or on nothing."""
    items = found(shard(tmp_path / "x.tar", *members, style=style))
    assert [item.captions for item in items] == captions
    for item in items:
        read = item.image.read()
        assert read[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"II*\0", b"GIF8") or read[:2] == b"BM"
        assert ("red" in str(item.captions)) <= (read != BLUE)
    notes = "\n".join(items.summary()[1:])
    assert (said is None) == (not notes) and (said is None or re.search(said, notes)), notes


REFUSED = {
    "text in GBK": ([("a.png", RED), ("a.txt", "红色的圆".encode("gbk"))], r"x\.tar:a\.txt, line 1, is not UTF-8"),
    "text in UTF-16": ([("a.png", RED), ("a.txt", "red".encode("utf-16"))], "looks like UTF-16"),
    "json with another key": (
        [("a.png", RED), ("a.json", b'{"text": "red"}')],
        'a.json has no "caption"; its keys are: text',
    ),
    "json list": ([("a.png", RED), ("a.json", b"[1, 2]")], "a.json must contain a JSON object"),
    "json nested": ([("a.png", RED), ("a.json", b"[" * 200_000)], "nested too deeply"),
    "json number": ([("a.png", RED), ("a.json", b'{"caption": 3}')], "the caption is 3"),
    "no images": ([("a.heic", RED), ("a.txt", b"red")], r"contains no images .*1 \.heic"),
    "nothing": ([], "contains no images"),
    "edit without instruction": ([("a.png", RED), ("a.reference.png", BLUE)], "1 references and no text"),
    "instruction without reference": (
        [("a.png", RED), ("a.json", b'{"instruction": "red"}')],
        "0 references and instruction",
    ),
}


@pytest.mark.parametrize("members, said", REFUSED.values(), ids=REFUSED)
def test_a_shard_that_is_not_understood_is_refused(members, said, tmp_path):
    """Catches a caption that becomes a reconstruction, and errors that do not name the member."""
    with pytest.raises(Blip3oError, match=said):
        found(shard(tmp_path / "x.tar", *members))


def test_a_shard_that_is_cut_or_joined_is_told(tmp_path):
    """Catches the second half of a shard that nobody reads: tarfile stops there in silence."""
    whole = shard(tmp_path / "x.tar", ("a.png", RED), ("b.png", BLUE)).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole + whole)
    with pytest.raises(Blip3oError, match="several shards were joined"):
        found(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(whole[:700])
    with pytest.raises(Blip3oError, match=r"a\.png is cut short|unexpected end"):
        found(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512))
    assert "1 shard without an end mark" in found(tmp_path / "x.tar").summary()[1]
    (tmp_path / "x.tar").write_bytes(whole[:1024] + b"x" * 512 + whole[1536:])
    with pytest.raises(Blip3oError, match="cannot be read as a member"):
        found(tmp_path / "x.tar")


def test_references_are_in_the_order_of_their_numbers(tmp_path):
    """Catches reference10 before reference2: the instruction names images by their place."""
    members = [(f"a.reference{n}.png", image(colour)) for n, colour in ((10, "blue"), (2, "green"))]
    [item] = found(shard(tmp_path / "x.tar", ("a.png", RED), ("a.txt", b"swap"), *members))
    assert [one.read() for one in item.references] == [image("green"), image("blue")]


LINES = {
    "text": ('{"image": "0.png", "text": "red"}', "line 1: unknown key 'text'. Did you mean caption"),
    "txt": ('{"image": "0.png", "txt": "red"}', "Did you mean caption"),
    "prompt": ('{"image": "0.png", "prompt": "red"}', "Did you mean caption"),
    "captions": ('{"image": "0.png", "captions": ["red"]}', "Did you mean caption"),
    "Caption": ('{"image": "0.png", "Caption": "red"}', "'Caption'. Did you mean caption"),
    "a slip": ('{"image": "0.png", "images": ["0.png"], "instuction": "red"}', "Did you mean instruction"),
    "reference": ('{"image": "0.png", "reference": "0.png", "caption": "red"}', "Did you mean images"),
    "file_name of Hugging Face": ('{"file_name": "0.png", "caption": "red"}', "Did you mean image"),
    "any other": ('{"image": "0.png", "zzz": 1}', "unknown key 'zzz'. A line can have image, images, caption"),
    "half a character": (r'{"image": "0.png", "caption": "red \ud800"}', "half a character"),
    "half a character in a name": (r'{"image": "\ud800.png"}', "does not exist"),
    "zero byte in a name": (r'{"image": "a\u0000.png"}', "does not exist"),
    "a name of 5,000 letters": ('{"image": "' + "x" * 5000 + '"}', r"5,002 characters.*does not exist"),
    "a folder": ('{"image": "."}', "is not a regular file"),
    "a device": ('{"image": "/dev/zero"}', "is not a regular file"),
    "an object": ('{"image": {"a": 1}}', "an image is .*Give paths as text"),
    "two faults": ('{"image": "0.png", "text": "red"}\n{"image": "1.png"}', "2 faulty lines"),
    "a list": ("[1]", "is not a JSON object"),
    "nested": ("[" * 200_000, "line 1: .*nested too deeply"),
}


@pytest.mark.parametrize("text, said", LINES.values(), ids=LINES)
def test_a_line_that_is_not_understood_is_refused(text, said, tmp_path):
    """Catches captions under another program's key, which were dropped: the run trained on none and said nothing."""
    (tmp_path / "0.png").write_bytes(RED)
    (tmp_path / "items.jsonl").write_text(text)
    with pytest.raises(Blip3oError, match=said) as raised:
        found(tmp_path)
    assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("code, said", [("cp1252", "line 2, is not UTF-8"), ("gbk", "not UTF-8"), ("utf-16", "UTF-16")])
def test_a_list_in_another_encoding_is_refused(code, said, tmp_path):
    """Catches a traceback, and an error that does not say which file and line."""
    (tmp_path / "0.png").write_bytes(RED)
    text = (
        '{"image": "0.png", "caption": "red"}\n{"image": "0.png", "caption": "'
        + ("红" if code == "gbk" else "é")
        + '"}'
    )
    (tmp_path / "items.jsonl").write_bytes(text.encode(code))
    with pytest.raises(Blip3oError, match=said):
        found(tmp_path)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"], ids=ascii)
def test_a_caption_may_have_any_separator(mark, tmp_path):
    """Catches a line that is cut at a character that is no end of a line in JSON."""
    (tmp_path / "0.png").write_bytes(RED)
    line = json.dumps({"image": "0.png", "caption": f"a{mark}b"}, ensure_ascii=False)
    (tmp_path / "items.jsonl").write_text(f"\ufeff{line}\r\n{line}\r\n", newline="")
    assert [item.captions for item in found(tmp_path)] == [(f"a{mark}b",)] * 2


def test_what_a_folder_has_besides_is_told(tmp_path):
    """Catches shards beside a list, compressed shards and loose images that nobody trains on."""
    for name in ("0.png", "a.tar.gz", "._b.tar"):
        (tmp_path / name).write_bytes(RED)
    with pytest.raises(Blip3oError, match=r"contains no images .*1 \.png without items\.jsonl, 1 \.tar\.gz"):
        found(tmp_path)
    (tmp_path / "items.jsonl").write_text('{"image": "0.png"}')
    assert any("1 .tar.gz beside items.jsonl" in line for line in found(tmp_path).summary())
    (tmp_path / "items.jsonl").unlink()
    shard(tmp_path / "b.tar", ("a.png", RED))
    assert len(found(tmp_path)) == 1  # ._b.tar is no shard


@pytest.mark.parametrize(
    "name", ["absent", "a\0b", "x" * 5000, "/dev/null", "file.txt"], ids=["absent", "zero", "long", "device", "text"]
)
def test_a_source_that_is_none_is_refused(name, tmp_path):
    """Catches tracebacks of the system for names that no file can have."""
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(Blip3oError, match="data names "):
        found(tmp_path / name)


def test_the_summary_counts_what_will_be_trained_on(tmp_path):
    """Catches a run on reconstructions alone that the user takes for one on captions."""
    import torch

    (tmp_path / "0.png").write_bytes(RED)
    lines = [
        {"image": "0.png", "caption": "red"},
        {"image": "0.png"},
        {"image": "0.png", "images": "0.png", "instruction": "x"},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pack(tmp_path / "p.safetensors", torch.zeros(2, 4, dtype=torch.int16), torch.zeros(2, 1, 2, 2), ["red", None])
    items = find_items([str(tmp_path), str(tmp_path / "p.safetensors"), str(tmp_path)])
    assert items.summary()[0] == "8 images: 3 with captions, 3 reconstructions, 2 edits"
    assert [item.captions for item in items][3:6] == [("red",), (), ("red",)]
    with pytest.raises(IndexError):
        items[8]


def test_the_command_says_what_it_will_train_on(world, capsys):
    """Catches hours of training on captions that nobody read; standard output keeps to steps and files."""
    assert main(["train", str(write_config(world, "run", steps=1))]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "6 images: 6 with captions, 0 reconstructions, 0 edits"
    assert "images:" not in said.out
