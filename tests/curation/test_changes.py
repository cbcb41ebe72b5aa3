"""What a second run does after sources have changed: what changed is measured, and nothing else."""

import json
import os

import pytest

from blip3o_core.curation import measure
from blip3o_core.curation.engine import curate, find_parts
from blip3o_core.curation.readers import folder as folders
from blip3o_core.curation.readers import lists
from tests.support.curation import CAPTION, encoded, settings, texture


@pytest.fixture
def measured(monkeypatch):
    """The names of what is measured, as it is."""
    found, ours = [], measure.measure_sample

    def noted(sample):
        found.append(sample.place.rsplit("/", 1)[-1])
        return ours(sample)

    monkeypatch.setattr(measure, "measure_sample", noted)
    return found


def fill(folder, numbers):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number:02d}.png").write_bytes(encoded(texture(number)))
        (folder / f"{number:02d}.txt").write_text(f"{CAPTION}, number {number}")
    return folder


def run(source, out, measured):
    """(what was measured, reasons, the shards' times of change)."""
    measured.clear()
    outcome = curate(settings([str(source)], out))
    times = {one.name: one.stat().st_mtime_ns for one in outcome.work.shards.glob("*.tar")}
    return list(measured), outcome.reasons, times


def test_of_a_folder_only_what_changed_is_measured(tmp_path, measured, monkeypatch):
    """Catches a folder that is measured anew for one file, an old text that stays, and a shard written for nothing."""
    monkeypatch.setattr(folders, "PIECE_FILES", 3)
    folder, out = fill(tmp_path / "data", range(1, 10)), tmp_path / "out"
    found, reasons, before = run(folder, out, measured)
    assert len(found) == reasons["kept"] == 9 and len(before) == 3
    (folder / "05.txt").write_text(f"{CAPTION}, which is new")
    fill(folder, [8])
    os.utime(folder / "08.png", ns=(1, 1))  # touched, with the same bytes
    found, _, after = run(folder, out, measured)
    assert found == ["05.png"] and [name for name in before if before[name] != after[name]] == ["data-data-00001.tar"]
    fill(folder, [0])  # before all others: every piece has another first sample
    found, reasons, _ = run(folder, out, measured)
    assert sorted(found) == ["00.png", "03.png", "06.png", "09.png"] and reasons["kept"] == 10
    again = curate(settings([str(folder)], tmp_path / "again"))
    name = "data-data-00002.tar"
    assert (out / "shards" / name).read_bytes() == (again.work.shards / name).read_bytes()


def test_images_behind_a_list_are_watched(tmp_path, measured, monkeypatch):
    """Catches an image that was replaced, or came later, and is not seen because the list is as it was."""
    monkeypatch.setattr(lists, "PIECE_LINES", 2)
    folder = fill(tmp_path / "data", range(4))
    lines = [json.dumps({"image": f"{number:02d}.png", "caption": f"{CAPTION} {number}"}) for number in (*range(4), 9)]
    path, out = tmp_path / "data" / "list.jsonl", tmp_path / "out"
    path.write_text("\n".join(lines))
    found, reasons, before = run(path, out, measured)
    assert len(found) == 4 and reasons["unreadable"] == 1
    assert run(path, out, measured)[0] == []
    (folder / "02.png").write_bytes(encoded(texture(77)))
    found, _, after = run(path, out, measured)
    assert found == ["list.jsonl, line 3"] and sum(before[name] != after[name] for name in before) == 1
    fill(folder, [9])
    found, reasons, _ = run(path, out, measured)
    assert found == ["list.jsonl, line 5"] and reasons["kept"] == 5
    path.write_text("\n".join([lines[4], *lines[:4]]))  # another order: each is known where its piece had it
    assert len(run(path, out, measured)[0]) < 5


def test_images_behind_a_table_are_watched(tmp_path, measured):
    """Catches a parquet file with paths whose images were replaced."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = fill(tmp_path / "data", range(2))
    rows = [{"image": f"{number:02d}.png", "text": f"{CAPTION} {number}"} for number in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    assert len(run(folder / "rows.parquet", tmp_path / "out", measured)[0]) == 2
    (folder / "01.png").write_bytes(encoded(texture(77)))
    assert len(run(folder / "rows.parquet", tmp_path / "out", measured)[0]) == 1


def test_pieces_of_two_sources_never_share_a_name(tmp_path):
    """Catches a source whose shard replaces that of another one: `a-b` of `x`, and `b` of `x-a`."""
    sources = []
    for number, (name, file) in enumerate((("x", "a-b"), ("x-a", "b"))):
        folder = fill(tmp_path / name, [number])
        (folder / f"{file}.jsonl").write_text(json.dumps({"image": f"{number:02d}.png", "caption": CAPTION}))
        sources.append({"path": str(folder), "name": name})
    given = settings(sources, tmp_path / "out")
    names = [part.piece.name for part in find_parts(given)]
    assert len(set(names)) == len(names)
    assert curate(given).reasons["kept"] == 2
