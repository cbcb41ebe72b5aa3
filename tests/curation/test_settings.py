"""Settings of a curation: all faults at once, before a file is read."""

import pytest

from blip3o_core.curation.settings import CurationSettings, load_curation
from blip3o_core.errors import Blip3oError


def test_all_faults_are_named_at_once(tmp_path):
    """Catches a user who corrects one setting to learn of the next one."""
    path = tmp_path / "curate.yaml"
    path.write_text(
        "sources: []\nkeep: {min_side: small, blur: 3, max_dark: 2}\nduplicates: {distance: 40}\nworkers: 0\n"
    )
    with pytest.raises(Blip3oError) as caught:
        load_curation(path, ["keep.min_words=-1"])
    message = str(caught.value)
    for part in (
        "sources is []",
        "out is missing",
        "keep.min_side is 'small'",
        "keep.blur",
        "keep.max_dark",
        "keep.min_words",
    ):
        assert part in message
    assert "duplicates.distance is 40" in message and "workers is 0" in message


def test_limits_that_exclude_everything_are_refused():
    """Catches a curation that keeps nothing because two limits crossed."""
    values = {"sources": "a", "out": "b", "keep": {"min_words": 9, "max_words": 3}, "edits": {"min_distance": 40}}
    judges = [{"name": "text", "min": 2, "max": 1}, {"name": "text"}]
    with pytest.raises(Blip3oError) as caught:
        CurationSettings(**values, judges=judges)
    message = str(caught.value)
    assert "keep.min_words is 9; it must not exceed keep.max_words (3)" in message
    assert "edits.min_distance is 40" in message and "'text' has min 2" in message and "twice" in message


def test_weights_are_for_all_sources_or_for_none():
    """Catches a mixture in which nobody knows the share of a source."""
    with pytest.raises(Blip3oError, match="'b' has no weight"):
        CurationSettings(sources=[{"path": "a", "weight": 2}, "b"], out="c")
