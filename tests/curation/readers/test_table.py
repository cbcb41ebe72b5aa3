"""Parquet files: rows with bytes, structs or paths, and files that are damaged or lack a column."""

import pytest

from blip3o_core.curation.readers import table as tables
from blip3o_core.curation.readers.find import find_pieces, read
from blip3o_core.curation.sample import Broken, Sample

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def written(path, columns, rows_in_group=None, **options):
    parquet.write_table(arrow.table(columns), path, row_group_size=rows_in_group, **options)
    return path


def results(path, **options):
    found = [one for piece in find_pieces(str(path), options) for one in read(piece)]
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Broken)]


def test_images_as_bytes_structs_and_paths(tmp_path):
    """Catches a table of `datasets` that is not understood, and a row that takes another's image."""
    (tmp_path / "c.jpg").write_bytes(b"c")
    images = [{"bytes": b"a", "path": "a.jpg"}, {"bytes": b"b", "path": None}, {"bytes": None, "path": "c.jpg"}]
    path = written(tmp_path / "a.parquet", {"image": images, "text": ["1", "2", "3"], "score": [1.5, None, 2.5]})
    samples, broken = results(path)
    assert not broken and [(one.image, one.texts) for one in samples] == [
        (b"a", ("1",)),
        (b"b", ("2",)),
        (b"c", ("3",)),
    ]
    assert samples[0].meta == {"score": 1.5} and samples[2].place == f"{path}, row 2"
    samples, _ = results(written(tmp_path / "b.parquet", {"jpg": [b"x"], "txt": [b"\xc3\xa9"], "big": [[1, 2]]}))
    assert samples[0].texts == ("é",) and samples[0].meta == {}


def test_edits_and_compositions(tmp_path):
    """Catches source and target in each other's place, and references that are lost."""
    columns = {"source_img": [b"s"], "target_img": [b"t"], "instruction": ["i"], "caption": ["c"]}
    (one,), _ = results(written(tmp_path / "a.parquet", columns))
    assert (one.kind, one.image, one.references, one.texts) == ("edit", b"t", (b"s",), ("i",))
    columns = {"input_images": [[{"bytes": b"1", "path": None}, {"bytes": b"2", "path": None}]], "output_image": [b"t"]}
    (one,), _ = results(written(tmp_path / "b.parquet", {**columns, "instruction": ["i"]}))
    assert (one.kind, one.references) == ("composition", (b"1", b"2"))
    named = {"x": [b"t"], "y": [b"r"], "z": ["short"], "w": ["long"]}
    (one,), _ = results(written(tmp_path / "c.parquet", named), image="x", references="y", text=["z", "w"])
    assert (one.image, one.references, one.texts) == (b"t", (b"r",), ("short", "long"))


@pytest.mark.parametrize(
    "columns, options, words",
    [
        ({"pixels": [b"x"], "words": ["w"]}, {}, "Its columns: pixels, words."),
        ({"image": [b"x"], "text": ["w"]}, {"text": "txt"}, "Did you mean text? Its columns: image, text."),
    ],
)
def test_a_table_without_the_column_names_those_it_has(tmp_path, columns, options, words):
    """Catches a table that stops the run, or an answer that does not say which columns there are."""
    samples, broken = results(written(tmp_path / "a.parquet", columns), **options)
    assert not samples and len(broken) == 1 and words in broken[0].reason


def test_faulty_rows_cost_themselves(tmp_path):
    """Catches an empty cell, or a text of a megabyte, that ends the table."""
    columns = {"image": [b"a", None, b"", b"d", b"e"], "text": ["x", "x", "x", "x" * 2**20, "x"]}
    samples, broken = results(written(tmp_path / "a.parquet", columns))
    assert [one.key for one in samples] == ["00000000", "00000004"]
    assert [one.place[-5:] for one in broken] == ["row 1", "row 2", "row 3"]


def test_pieces_are_whole_row_groups(tmp_path, monkeypatch):
    """Catches a row that two pieces have, or none, and numbers of rows that start anew."""
    monkeypatch.setattr(tables, "PIECE_ROWS", 20)
    path = written(tmp_path / "a.parquet", {"image": [b"%d" % n for n in range(95)]}, rows_in_group=10)
    pieces = find_pieces(str(path))
    assert [(one.first, one.last) for one in pieces] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, None)]
    found = [one for piece in pieces for one in read(piece)]
    assert [one.image for one in found] == [b"%d" % n for n in range(95)]
    assert [one.key for one in found] == [f"{n:08d}" for n in range(95)]


def test_damage_costs_one_row_group(tmp_path):
    """Catches a damaged page that hides the groups after it, and a file without its end that stops the run."""
    path = written(tmp_path / "a.parquet", {"image": [b"%099d" % n for n in range(40)]}, 10, compression="gzip")
    data = bytearray(path.read_bytes())
    at = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[at : at + 60] = b"\xff" * 60
    path.write_bytes(data)
    samples, broken = results(path)
    assert {int(one.key) // 10 for one in samples} == {0, 2, 3} and len(samples) == 30
    assert len(broken) == 1 and "rows 10 to 19" in broken[0].place
    for size in (0, 3, len(data) // 2):
        path.write_bytes(data[:size])
        samples, broken = results(path)
        assert not samples and len(broken) == 1 and "parquet" in broken[0].reason
