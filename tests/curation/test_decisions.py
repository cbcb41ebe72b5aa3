"""What the limits drop, and what is said about it."""

import pyarrow as pa
import pytest

from blip3o_core.curation.decisions import Drop, decide
from blip3o_core.curation.features import measure_sample
from blip3o_core.curation.measure import schema
from blip3o_core.curation.sample import Sample
from tests.support.curation import CAPTION, encoded, settings, texture


def table_of(samples, chosen):
    rows = [
        {"key": one.key, "place": one.place, "kind": one.kind, "texts": list(one.texts)} | measure_sample(one)
        for one in samples
    ]
    return pa.Table.from_pylist([*rows, {"place": "bad", "broken": "It is cut short."}], schema(chosen))


@pytest.fixture(scope="module")
def samples():
    plain, other = encoded(texture(1)), encoded(texture(2))
    return [
        Sample("good", "good", plain, texts=(CAPTION,)),
        Sample("tiny", "tiny", encoded(texture(3, 40, 200)), texts=("12 34", "a house")),
        Sample("mixed", "mixed", plain, texts=("12 34", CAPTION, "99 11 44")),
        Sample("silent", "silent", plain),
        Sample("copy", "copy", plain, (plain,), ("make it red",)),
        Sample("other", "other", plain, (other,), ("make it blue",)),
        Sample("pair", "pair", plain, (other, plain), ("put both into one image",)),
        Sample("lost", "lost", plain, (other,)),
        Sample("french", "french", plain, texts=("Un cercle rouge à côté d'un carré bleu dans le jardin",)),
    ]


def test_each_limit_drops_what_breaks_it(samples, tmp_path):
    """Catches a limit that is not asked, asks the wrong samples, or is said with another value."""
    edits = {"min_distance": 1, "min_reference_side": 48, "max_distance": 64, "max_changed": 1}
    chosen = settings("a", tmp_path, keep={"languages": ["en"]}, edits=edits, compositions={"min_changed": 0.01})
    verdicts = decide(table_of(samples, chosen), chosen)
    said = {samples[row].key if row < len(samples) else "bad": drops for row, drops in verdicts.drops.items()}
    assert {key: [drop.reason for drop in drops] for key, drops in said.items()} == {
        "tiny": ["side", "aspect"],
        "silent": ["without_text"],
        "copy": ["distance", "changed"],
        "pair": ["reference_side", "changed"],
        "lost": ["without_text"],
        "french": ["language"],
        "bad": ["unreadable"],
    }
    assert said["tiny"] == [Drop("side", 40, 48), Drop("aspect", 5, 4.0)]
    assert said["french"] == [Drop("language", "fr", "en")]
    assert said["bad"] == [Drop("unreadable", "It is cut short.", None)]
    assert verdicts.texts == {2: (1,)}  # the two texts without letters are left out


def test_limits_that_are_off_drop_nothing(samples, tmp_path):
    """Catches a limit that works although the user turned it off."""
    names = (
        "min_side",
        "max_aspect",
        "min_sharpness",
        "max_dark",
        "max_bright",
        "min_contrast",
        "min_words",
        "max_words",
        "min_letters",
        "max_repetition",
    )
    off = dict.fromkeys(names) | {"without_text": True}
    free = dict.fromkeys(("min_reference_side", "min_changed"))
    edits = free | dict.fromkeys(("max_distance", "max_changed", "max_aspect_difference"))
    chosen = settings("a", tmp_path, keep=off, edits=edits, compositions=free)
    dropped = decide(table_of(samples, chosen), chosen).drops
    assert sorted(samples[row].key for row in dropped if row < len(samples)) == ["lost"]


def test_judges_have_limits(samples, tmp_path):
    """Catches the number of a judge that decides nothing."""
    chosen = settings("a", tmp_path, judges=[{"name": "quality", "min": 0.5}])
    table = table_of(samples[:1], chosen)
    for value, reasons in (0.2, [Drop("judge.quality", 0.2, 0.5)]), (0.7, None), (None, None):
        column = pa.array([value, None], pa.float64())
        judged = table.set_column(table.column_names.index("judge.quality"), "judge.quality", column)
        assert decide(judged, chosen).drops.get(0) == reasons
