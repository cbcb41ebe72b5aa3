"""Shard folders: what is written is read back, by today's readers of tars too, and what has changed is refused."""

import io
import itertools
import json
import os
import re
import shutil
import tarfile
import threading
from pathlib import Path

import pytest
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.shards.layout import read_facts
from blip3o_core.shards.manifest import has_manifest, read_manifest, write_manifest
from blip3o_core.shards.read import ShardFolder
from blip3o_core.shards.write import Record, write_shard
from blip3o_core.training.data.items import find_items


def image(number: int, kind: str = "png") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(data, kind)
    return data.getvalue()


KINDS = ["png", "jpeg", "webp", "gif", "bmp", "tiff", "avif"]
RECORDS = [
    *(Record(f"image-{k}", image(k, kind), (), (f"a {kind}", "the same"), {"side": 8}) for k, kind in enumerate(KINDS)),
    Record("edit", image(20), (image(21),), ("make it blue",), {"verdict": {"good": True}, "name": "é"}),
    Record("both", image(30), (image(31, "jpeg"), image(32)), ("put them together",)),
    Record("plain", image(40)),
    Record("猫 v1.0/x", image(50), (), ("a\u2028猫",)),
    Record("猫 v1.0_x", image(51), (), ("another",)),
]


def write_folder(folder: Path, records=RECORDS, size: int = 4) -> Path:
    facts = [
        write_shard(folder / f"part-{k:02d}.tar", records[start : start + size])
        for k, start in enumerate(range(0, len(records), size))
    ]
    write_manifest(folder, facts)
    return folder


def read_all(folder: Path) -> list[Record]:
    shards = ShardFolder(folder)
    return [shards.read(*shards.find(number)).record for number in range(len(shards))]


def test_what_is_written_is_read_back_at_any_item(tmp_path):
    """Catches an index that is off by a header or a block, and keys, texts and facts that change on the way."""
    folder = ShardFolder(write_folder(tmp_path))
    assert len(folder) == len(RECORDS) and folder.counts == [4, 4, 4]
    for number in reversed(range(len(RECORDS))):
        stored = folder.read(*folder.find(number))
        assert stored.record == RECORDS[number]
        assert (
            len(stored.names) == 1 + len(RECORDS[number].references) == 1 + folder.num_references(*folder.find(number))
        )
        assert stored.names[0].startswith(str(tmp_path / "part-")) and ".tar:" in stored.names[0]
    assert list(folder.texts(1)) == [record.texts for record in RECORDS[4:8]]
    for number in (-1, len(RECORDS)):
        with pytest.raises(IndexError):
            folder.find(number)


def test_the_manifest_counts_what_is_there(tmp_path):
    """Catches a run that is told of other kinds, or of shorter texts, than its shards have."""
    one, two, three = read_manifest(write_folder(tmp_path)).shards
    assert [
        (s.name, s.items, s.captions, s.edits, s.reconstructions, s.most_references) for s in (one, two, three)
    ] == [
        ("part-00", 4, 4, 0, 0, 0),
        ("part-01", 4, 3, 1, 0, 1),
        ("part-02", 4, 2, 1, 1, 2),
    ]
    assert two.longest_text == len("make it blue") and three.longest_text == len("put them together")
    assert [read_facts(tmp_path / f"{s.name}.tar") for s in (one, two, three)] == [one, two, three]


def test_the_bytes_of_a_shard_are_the_same_on_every_run(tmp_path, monkeypatch):
    """Catches times, users and orders of dictionaries in a shard: two machines must write the same bytes."""
    write_folder(tmp_path / "one")
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    turned = [Record(r.key, r.image, r.references, r.texts, dict(reversed(r.facts.items()))) for r in RECORDS]
    write_folder(tmp_path / "two", turned)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 7
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    # Where a shard is does not matter, what it holds does.
    moved = read_manifest((tmp_path / "two").rename(tmp_path / "three"))
    assert moved.identity == read_manifest(tmp_path / "one").identity
    assert moved.identity != read_manifest(write_folder(tmp_path / "four", RECORDS[::-1])).identity


def test_tar_and_the_reader_of_plain_shards_see_the_same(tmp_path):
    """Catches a folder that only this program reads: webdataset groups members by what stands before the first dot."""
    write_folder(tmp_path)
    samples = []
    for shard in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(shard) as tar:
            members = [(*member.name.split(".", 1), tar.extractfile(member).read()) for member in tar]
        for key, group in itertools.groupby(members, lambda member: member[0]):
            samples.append((key, {ending: data for _, ending, data in group}))
    assert len(samples) == len(RECORDS)
    for (key, sample), record in zip(samples, RECORDS, strict=True):
        entry = json.loads(sample.pop("json"))
        assert key == record.key or (entry["key"] == record.key and key.isascii())
        assert tuple(entry["instruction" if record.references else "caption"] or ()) == record.texts
        assert list(sample.values()) == [record.image, *record.references]
        assert [name.split(".")[0] for name in sample][1:] == [
            f"reference{k + 1}" for k in range(len(record.references))
        ]
    items = find_items([str(tmp_path / "part-00.tar"), str(tmp_path / "part-01.tar"), str(tmp_path / "part-02.tar")])
    assert [(one.captions, one.image.read(), tuple(ref.read() for ref in one.references)) for one in items] == [
        (record.texts, record.image, record.references) for record in RECORDS
    ]
    assert items.notes == []


REFUSED = {
    "a key twice": ([RECORDS[0], RECORDS[0]], "'image-0' is there twice"),
    "no image": ([Record("a", b"no image")], "'a' has an image in no format that a shard holds"),
    "no reference": ([Record("a", image(1), (b"",), ("x",))], "in no format that a shard holds"),
    "no instruction": ([Record("a", image(1), (image(2),), (" ",))], "has references and no instruction"),
    "half a character": ([Record("a", image(1), (), ("\ud800",))], "half a character"),
    "NaN": ([Record("a", image(1), facts={"blur": float("nan")})], "facts that JSON cannot hold"),
    "an object": ([Record("a", image(1), facts={"blur": object()})], "facts that JSON cannot hold"),
    "megabytes": ([Record("a", image(1), (), ("x" * 2**24,))], "bytes of text"),
}


@pytest.mark.parametrize("records, said", REFUSED.values(), ids=REFUSED)
def test_what_no_shard_can_hold_leaves_nothing(records, said, tmp_path):
    """Catches half a shard under its final name, which a program that resumes would take for a whole one."""
    with pytest.raises(Blip3oError, match=said):
        write_shard(tmp_path / "x.tar", itertools.chain(RECORDS[2:4], records))
    assert not list(tmp_path.iterdir())


def test_a_failure_of_the_source_or_the_disk_leaves_the_old_shard(tmp_path, monkeypatch):
    """Catches a good shard lost because its replacement failed half way, and a failed source called the disk."""
    write_folder(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing():
        yield RECORDS[0]
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_shard(tmp_path / "part-00.tar", failing())
    monkeypatch.setattr(os, "replace", lambda *given: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Blip3oError, match="Cannot write .*part-00.tar: .*No space"):
        write_shard(tmp_path / "part-00.tar", RECORDS[:1])
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def cut(folder: Path) -> None:
    with open(folder / "part-01.tar", "r+b") as shard:
        shard.truncate(3000)


def swap(folder: Path) -> None:
    for name in ("part-00", "part-01"):
        for ending in ("tar", "index"):
            (folder / f"{name}.{ending}").rename(folder / f"{name}.{ending}.old")
    for name, other in (("part-00", "part-01"), ("part-01", "part-00")):
        for ending in ("tar", "index"):
            (folder / f"{name}.{ending}.old").rename(folder / f"{other}.{ending}")


def of_the_same_size(folder: Path) -> None:
    data = bytearray((folder / "part-01.tar").read_bytes())
    data[:6] = b"other-"
    (folder / "part-01.tar").write_bytes(data)


CHANGED = {
    "cut": (cut, r"part-01.tar has 3,000 bytes, and manifest.json says .*: it was cut short"),
    "swapped": (swap, "part-01.tar .*(a different file|cut short|its bytes are others)"),
    "other bytes": (of_the_same_size, "part-01.tar is not the shard that manifest.json names"),
    "gone": (lambda folder: (folder / "part-01.tar").unlink(), "part-01.tar does not exist"),
    "no index": (lambda folder: (folder / "part-01.index").unlink(), "part-01.index does not exist"),
    "another index": (
        lambda folder: shutil.copy(folder / "part-00.index", folder / "part-01.index"),
        "part-01.index is not the index of the shard",
    ),
    "a cut index": (lambda folder: os.truncate(folder / "part-01.index", 130), "part-01.index has 130 bytes and needs"),
    "no index at all": (
        lambda folder: (folder / "part-01.index").write_bytes(b"x" * 500),
        "is not the index of a shard",
    ),
    "a folder": (lambda folder: ((folder / "part-01.tar").unlink(), (folder / "part-01.tar").mkdir()), "is a folder"),
}


@pytest.mark.parametrize("change, said", CHANGED.values(), ids=CHANGED)
def test_a_shard_that_has_changed_is_named(change, said, tmp_path):
    """Catches a run that learns from other images than its manifest says, or stops hours later."""
    folder = write_folder(tmp_path)
    change(folder)
    shards = ShardFolder(folder)
    faults = [shards.fault(number) for number in range(3)]
    assert faults[2] is None and re.search(said, faults[1]), faults
    assert (faults[0] is None) == (change is not swap)


def test_a_change_after_the_look_is_noticed_at_the_item(tmp_path):
    """Catches bytes of a neighbour that are taken for an image when a shard is replaced under a run."""
    folder = write_folder(tmp_path)
    shutil.copy(folder / "part-02.tar", folder / "part-01.tar")
    with pytest.raises(Blip3oError, match="does not fit its index"):
        read_all(folder)
    cut(write_folder(tmp_path))
    with pytest.raises(Blip3oError, match="part-01.tar is cut short: it has changed"):
        read_all(folder)


MANIFESTS = {
    "none": (None, "has no manifest.json"),
    "no JSON": ("{", "cannot be read as JSON"),
    "of something else": ({"name": "x"}, "does not describe shards"),
    "a later version": ({"version": 2}, "has version 2 of the format"),
    "no list": ({"shards": {}}, "has no list of shards"),
    "no object": ({"shards": [3]}, "shard 0, is not a JSON object"),
    "a name that leaves": ({"name": "../x"}, "shard 0: its name is '../x'"),
    "no number": ({"items": True}, "shard 0: its items is True"),
    "below zero": ({"items": -1}, "shard 0: its items is -1"),
    "an unknown fact": ({"item": 3}, "unknown 'item'. Did you mean"),
    "twice": ({"shards": 2}, "names a shard twice"),
}


@pytest.mark.parametrize("content, said", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_of_something_else_is_refused(content, said, tmp_path):
    """Catches tracebacks, and files outside the folder; each message says which shard and value."""
    path = write_folder(tmp_path) / "manifest.json"
    whole = json.loads(path.read_text())
    path.unlink()
    if isinstance(content, str):
        path.write_text(content)
    elif content == {"name": "x"}:
        path.write_text(json.dumps(content))
    elif content is not None:
        if content.get("shards") == 2:
            whole["shards"] *= 2
        elif set(content) & {"version", "shards"}:
            whole |= content
        else:
            whole["shards"][0] |= content
        path.write_text(json.dumps(whole))
    assert has_manifest(tmp_path) == (content is not None and content not in ("{", {"name": "x"}))
    with pytest.raises(Blip3oError, match=said):
        ShardFolder(tmp_path)


def test_threads_read_and_few_files_are_open(tmp_path):
    """Catches a file that is closed under a reading thread, and one that stays open for every shard."""
    folder = ShardFolder(write_folder(tmp_path, [Record(f"{k}", image(k), (), (str(k),)) for k in range(200)], 2))
    before, wrong = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0, []

    def read(start: int) -> None:
        for k in range(200):
            number = (37 * k + start) % 200
            if folder.read(*folder.find(number)).record.texts != (str(number),):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(50 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= 2 * 64 + 4
