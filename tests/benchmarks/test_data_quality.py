"""The benchmark of data quality: what it plants is what it says, and the engine drops it."""

import json

import pytest

from blip3o_core.errors import Blip3oError

pytest.importorskip("pyarrow", reason="the `curate` extra is not installed")
from benchmarks import data_quality


@pytest.mark.parametrize("edition", [1, 2])
def test_the_engine_keeps_what_is_good_and_drops_what_was_planted(edition, tmp_path, monkeypatch):
    """Catches spoilt pairs that nothing tells from good ones, and good data that differs in more than that."""
    monkeypatch.setattr(data_quality, "PAIRS", 60)
    raw, good = (list(data_quality.pairs(0, spoilt, edition)) for spoilt in (True, False))
    plan = data_quality.plan(0)
    same = [one.image == other.image and one.texts == other.texts for one, other in zip(raw, good, strict=True)]
    assert same == [kind == "good" for kind in plan]
    kept = data_quality.make_data(tmp_path, 0, edition)
    assert plan.count("good") == 36 and kept.pop("good kept") >= 28
    assert set(kept.values()) == {0}


def test_a_folder_of_other_settings_is_refused(tmp_path, monkeypatch):
    """Catches numbers of two checkpoints or budgets in one table, and a table without what it is of."""
    monkeypatch.setattr(data_quality, "make_data", lambda folder, *_: folder.mkdir(parents=True) or {"good kept": 1})
    monkeypatch.setattr(data_quality, "plan", lambda seed: ["good"])
    monkeypatch.setattr(data_quality, "measure", lambda *_: {"numbers": {"mean": 50.0}})
    assert "| mean | 50.0 |" in data_quality.run(tmp_path, 1, steps=3)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["settings"]["steps"] == 3 and record["machine"]["threads"]
    with pytest.raises(Blip3oError, match="other settings"):
        data_quality.run(tmp_path, 1, steps=4)
