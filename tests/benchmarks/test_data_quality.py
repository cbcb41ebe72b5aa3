"""The benchmark of data quality: what it plants is what it says, and the engine drops it."""

import pytest

pytest.importorskip("pyarrow", reason="the `curate` extra is not installed")
from benchmarks import data_quality


def test_the_engine_keeps_what_is_good_and_drops_what_was_planted(tmp_path, monkeypatch):
    """Catches spoilt pairs that nothing tells from good ones, and good data that differs in more than that."""
    monkeypatch.setattr(data_quality, "PAIRS", 60)
    raw, good = (list(data_quality.pairs(0, spoilt)) for spoilt in (True, False))
    plan = data_quality.plan(0)
    same = [one.image == other.image and one.texts == other.texts for one, other in zip(raw, good, strict=True)]
    assert same == [kind == "good" for kind in plan]
    kept = data_quality.make_data(tmp_path, 0)
    assert plan.count("good") == 36 and kept.pop("good kept") >= 28
    assert set(kept.values()) == {0}
