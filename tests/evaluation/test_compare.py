"""Runs of a task side by side: the numbers of pairs, what differs, and what cannot be compared."""

import json
import re
from dataclasses import replace

import pytest

from blip3o_core.cli.main import main
from blip3o_core.evaluation import results, scoring
from blip3o_core.evaluation.compare import compare
from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.plan import rows_of
from blip3o_core.evaluation.run_folder import RunFolder
from tests.support.evaluation_runs import Known, Task, items, make_run

EIGHT = Task(items(8))


def numbers(*values: float) -> dict[str, list[float]]:
    return {f"{k:03d}": [value] for k, value in enumerate(values)}


def test_differences_are_of_pairs(tmp_path):
    """Catches differences of means, whose interval is that of the items' hardness, and pairs of unlike items."""
    hard = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6]
    easier = [value + 0.05 + 0.01 * (k % 2) for k, value in enumerate(hard)]
    before = make_run(tmp_path / "before", EIGHT, numbers(*hard))
    after = make_run(tmp_path / "after", EIGHT, numbers(*easier), steps=20)
    found = compare([before, after])
    [measure] = found.measures
    difference = measure.differences[1]["overall"]
    assert difference["mean"] == pytest.approx(0.055) and 0.05 - 1e-9 <= difference["low"] <= difference["high"] < 0.061
    wide = measure.numbers[1]["overall"]
    assert wide["high"] - wide["low"] > 0.2 and difference["n"] == 8
    assert measure.differences[0] is None and measure.differences[1]["categories"]["red"]["mean"] == pytest.approx(0.05)
    assert found.differing == [("settings.steps", [30, 20])] and not found.warnings


def test_weights_and_samples_count_as_in_the_results(tmp_path):
    """Catches an overall difference that is not that of the overall numbers, and an item that counts by its samples."""
    three = [Item("000", "a", "few"), Item("001", "b", "many"), Item("002", "c", "many")]
    task = Task(three, weights={"few": 1.0, "many": 1.0}, samples=2)
    before = make_run(tmp_path / "a", task, {"000": [0, 0], "001": [1, 0], "002": [1, 1]}, samples=2)
    after = make_run(tmp_path / "b", task, {"000": [1, 0], "001": [1, 1], "002": [0, 1]}, samples=2)
    [measure] = compare([before, after]).measures
    overall = [one["overall"]["mean"] for one in measure.numbers]
    assert overall == [(0 + 0.75) / 2, (0.5 + 0.75) / 2]
    assert measure.differences[1]["overall"]["mean"] == overall[1] - overall[0]


def test_only_what_both_have_is_paired(tmp_path):
    """Catches an item of the same id that asks for something else, a sample that one run lacks, and a number that
    another version of the scorer gave."""
    other = [replace(one, prompt="else") if one.id == "001" else one for one in EIGHT.items[:3]]
    before = make_run(tmp_path / "a", EIGHT, numbers(*[0.0] * 8))
    after = make_run(tmp_path / "b", Task(other), {f"00{k}": [k / 4, 1] for k in range(3)}, samples=2)
    found = compare([before, after])
    assert found.measures[0].differences[1]["overall"]["mean"] == 0.25  # of items 000 and 002, sample 0
    assert [words.split(";")[0] for words in found.warnings] == [
        "b has 3 items and a 8",
        "b has 2 samples of each item and a 1. Differences use the samples that both have.",
    ]
    scores = before / "scores/known.jsonl"
    scores.write_text(scores.read_text().replace('"version": "1"', '"version": "0"', 1))  # of item 000
    assert compare([before, after]).measures[0].differences[1]["overall"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "2"}, "version 2 and 1"),
        ({"decisive": {"judge": "b-9"}}, "judge b-9 and nothing"),
    ],
)
def test_another_scorer_of_the_same_name_gives_no_difference(tmp_path, change, reason):
    """Catches two judges whose numbers are subtracted."""
    before = make_run(tmp_path / "a", EIGHT, Known(numbers(*[0.0] * 8)))
    after = make_run(tmp_path / "b", EIGHT, Known(numbers(*[1.0] * 8), **change), steps=1)
    found = compare([before, after])
    assert found.measures[0].differences == [None, None] and all(found.measures[0].numbers)
    assert found.warnings == [
        f"The scorer known is not the same in b and a: {reason}. Its numbers cannot be compared, and no difference is "
        "given."
    ]


def test_gaps_are_named(tmp_path):
    """Catches a mean over what happened to work, shown as if it were all."""
    before = make_run(tmp_path / "a", EIGHT, numbers(*[0.0] * 8))
    failing = {**numbers(*[1.0] * 8), "003": [OSError("too dark")]}
    found = compare([before, make_run(tmp_path / "b", EIGHT, failing)])
    assert found.warnings == [
        "b and a have the same checkpoint, settings and versions.",
        "1 images of b could not be judged by known. They count in no mean.",
    ]
    assert found.measures[0].differences[1]["overall"]["n"] == 7


def test_an_image_that_is_gone_is_in_no_difference(tmp_path):
    """Catches the kept score of an image that could not be made again, counted in a difference and in no mean."""
    before = make_run(tmp_path / "a", EIGHT, numbers(*[0.0] * 8))
    after = make_run(tmp_path / "b", EIGHT, numbers(*[1.0] * 8), steps=1)
    run = RunFolder(after)
    rows = rows_of(EIGHT, EIGHT.items, 1)
    run.image(rows[3]).unlink()
    known = Known({})
    results.write(run, results.summarise(EIGHT, run, rows, [results.Scored(known, scoring.score(run, known, rows))]))
    [measure] = compare([before, after]).measures
    assert measure.numbers[1]["overall"]["n"] == measure.differences[1]["overall"]["n"] == 7


def test_the_command_writes_tables_and_a_page(tmp_path, capsys):
    """Catches a page without the images of the items that differ most, one that loads something or runs a script, and
    names that become HTML or break a table."""
    odd = Task([Item(f"{k}", f"<b>colour {k}", "a|b" if k else "c&d") for k in range(12)])
    says = {f"{k}": [0.5] for k in range(12)}
    before, after = (
        make_run(tmp_path / "a", odd, says),
        make_run(tmp_path / "b", odd, {**says, "7": [1.0], "3": [0.75]}, steps=9),
    )
    page = tmp_path / "page.html"
    assert main(["evaluate", "compare", str(before), str(after), "--out", str(page), "--images", "4"]) == 0
    out, err = capsys.readouterr()
    assert "| settings.steps | 30 | 9 |" in out and f"{page}\n" in out and not err
    assert "| a\\|b | 0.500 (0.500 to 0.500) | 0.568 (" in out
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and not re.search(r"(src|href)=.?(?!.?data:)http", text)
    shown = re.findall(r"&lt;b&gt;colour (\d+)<br>", text)
    assert shown[:2] == ["7", "3"] and len(shown) == 4 and "<b>colour" not in text
    assert text.count("data:image/png") == 8 and text.count("known: right 1<") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a"], "One run cannot be compared"),
        (["a", "a/../a"], "is given twice"),
        (["a", "nowhere"], "nowhere has no results.json"),
        (["a", "others"], "others and a have no item in common"),
        (["a", "task"], "task is a run of shapes, and a of colours"),
        (["a", "damaged"], "cannot be read as JSON"),
        (["a", "old"], "was written by another program or version: 'weights' is missing"),
        (["a", "b", "--out", "a"], "it is a folder"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, monkeypatch, words, sentence):
    """Catches a comparison of unlike things, and one that ends with a traceback."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "damaged", "old"):
        make_run(tmp_path / name, EIGHT, numbers(*[0.0] * 8))
    make_run(tmp_path / "others", Task([Item("x", "y")]), {"x": [1.0]})
    make_run(tmp_path / "task", replace(EIGHT, name="shapes"), numbers(*[0.0] * 8))
    (tmp_path / "damaged/results.json").write_text("{")
    results = json.loads((tmp_path / "old/results.json").read_text())
    del results["weights"]
    (tmp_path / "old/results.json").write_text(json.dumps(results))
    assert main(["evaluate", "compare", *words]) in (1, 2)
    out, err = capsys.readouterr()
    assert sentence in err and not out
