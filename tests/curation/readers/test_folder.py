"""Folders: images with texts beside them, lists, and everything else of a folder, which is named."""

import os

import pytest

from blip3o_core.curation.readers import folder as folders
from blip3o_core.curation.readers.find import find_pieces, read
from blip3o_core.curation.sample import Broken, Sample
from blip3o_core.errors import Blip3oError


def fill(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def results(source, **options):
    found = [one for piece in find_pieces(str(source), options) for one in read(piece)]
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Broken)]


def test_images_with_texts_beside_them(tmp_path):
    """Catches a creator's folder of which an image, a text or a fault is lost."""
    files = {
        "one.jpg": "1",
        "one.txt": "first",
        "two.PNG": "2",
        "two.caption": "second",
        "deep/er/one.jpg": "3",
        "deep/er/one.json": '{"caption": "third", "seed": 4}',
        "edit.jpg": "t",
        "edit.reference1.jpg": "r1",
        "edit.reference2.jpg": "r2",
        "edit.txt": "mix",
        "bare.webp": "5",
        "bare.mask.png": "m",
        ".hidden.jpg": "x",
        "Thumbs.db": "x",
        "__MACOSX/one.jpg": "x",
        "raw.heic": "x",
        "alone.txt": "x",
        "empty.jpg": "",
    }
    samples, broken = results(fill(tmp_path, files))
    found = {os.path.relpath(one.place, tmp_path): (one.kind, one.texts, one.meta) for one in samples}
    assert found == {
        "bare.webp": ("reconstruction", (), {"unused": ["bare.mask.png"]}),
        "deep/er/one.jpg": ("image", ("third",), {"seed": 4}),
        "edit.jpg": ("composition", ("mix",), {}),
        "one.jpg": ("image", ("first",), {}),
        "two.PNG": ("image", ("second",), {}),
    }
    assert {os.path.basename(one.place): one.reason[:6] for one in broken} == {
        "alone.txt": "No ima",
        "empty.jpg": "It is ",
        "raw.heic": "It is ",
    }
    assert len({one.key for one in samples}) == 5


def test_images_without_a_text_have_the_caption_of_their_source(tmp_path):
    """Catches a caption in place of an image's own, an instruction that is guessed, and `%name%` that is not a name."""
    files = {
        "old_red-house.jpg": "1",
        "in/two__cats.png": "2",
        "own.jpg": "3",
        "own.txt": "mine",
        "edit.jpg": "t",
        "edit.reference1.jpg": "r",
    }
    samples, _ = results(fill(tmp_path / "images", files), caption="%name%, a woodcut")
    texts = {os.path.basename(one.place): one.texts for one in samples}
    assert texts == {
        "old_red-house.jpg": ("old red house, a woodcut",),
        "two__cats.png": ("two cats, a woodcut",),
        "own.jpg": ("mine",),
        "edit.jpg": (),
    }
    listed = fill(tmp_path, {"all.jsonl": '{"image": "images/old_red-house.jpg"}\n'}) / "all.jsonl"
    assert [one.texts for one in results(listed, caption="%name%")[0]] == [("old red house",)]
    assert [one.texts for one in results(listed, caption="a woodcut")[0]] == [("a woodcut",)]


def test_a_folder_with_lists_or_shards_is_read_from_these_alone(tmp_path):
    """Catches an image that is read twice, once by a list and once by itself, and files that nobody names."""
    fill(
        tmp_path, {"a.jpg": "a", "b.jpg": "b", "metadata.jsonl": '{"file_name": "a.jpg", "text": "t"}', "LICENSE": "l"}
    )
    samples, broken = results(tmp_path)
    assert [one.texts for one in samples] == [("t",)]
    assert len(broken) == 1 and "2 .jpg" in broken[0].reason and "1 without an ending" in broken[0].reason


def test_pieces_of_a_folder_join_to_the_whole(tmp_path, monkeypatch):
    """Catches a file that two pieces have, or none, and an order that depends on the disk."""
    monkeypatch.setattr(folders, "PIECE_FILES", 4)
    names = [f"{part}{n}" for part in ("", "b/", "a/") for n in range(5)]
    fill(tmp_path, {f"{name}.jpg": name for name in names} | {f"{name}.txt": name for name in names})
    pieces = find_pieces(str(tmp_path))
    found = [one for piece in pieces for one in read(piece)]
    assert [(one.first, one.last) for one in pieces] == [(0, 4), (4, 8), (8, 12), (12, None)]
    order = [f"{part}{n}" for part in ("", "a/", "b/") for n in range(5)]
    assert [one.texts[0] for one in found] == order and len({one.key for one in found}) == 15
    assert len({piece.name for piece in pieces}) == 4


def test_links_are_followed_once_and_circles_end(tmp_path):
    """Catches links of the hub's cache that are not followed, and a folder inside itself that is read for ever."""
    fill(tmp_path, {"blobs/0": "a", "set/b.jpg": "b"})
    (tmp_path / "set" / "a.jpg").symlink_to(tmp_path / "blobs" / "0")
    (tmp_path / "set" / "gone.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "set" / "self").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "loop").symlink_to("loop")
    samples, broken = results(tmp_path / "set")
    assert [one.image for one in samples] == [b"a", b"b"]
    assert len(broken) == 2 and any("link to a file that does not exist" in one.reason for one in broken)


def test_pipes_and_pointers_are_named(tmp_path):
    """Catches a reading that waits for a pipe, or an image of which git left a pointer."""
    fill(tmp_path, {"a.jpg": "version https://git-lfs.github.com/spec/v1\n"})
    os.mkfifo(tmp_path / "b.jpg")
    samples, broken = results(tmp_path)
    assert not samples and [words in one.reason for one, words in zip(broken, ("LFS", "a pipe"), strict=True)]


def test_sources_with_nothing_are_refused(tmp_path):
    """Catches a misspelt path that becomes an empty set."""
    for source, words in (
        (tmp_path / "gone", "cannot be read"),
        (tmp_path, "nothing to read"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(Blip3oError, match=words):
            find_pieces(str(source))
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(Blip3oError, match="nothing to read"):
        find_pieces(str(tmp_path / "notes.md"))


def test_no_two_pieces_share_a_name(tmp_path):
    """Catches two files that would become one shard."""
    files = ["a.tar", "a.tar.gz", "a.jsonl", "a.parquet", "A.tar", "x/a.tar", "x_a.tar", "others.tar", "b.txt"]
    pieces = find_pieces(str(fill(tmp_path, dict.fromkeys(files, ""))))
    names = {piece.name.lower() for piece in pieces}
    assert len(names) == len(pieces) == len(files) and all("/" not in name for name in names)
    assert pieces == find_pieces(str(tmp_path))
