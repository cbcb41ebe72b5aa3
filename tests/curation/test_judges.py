"""Rewards as judges of samples: what they are asked, what their number decides, and what their faults cost."""

import json

import pytest
from PIL import Image

from blip3o_core.curation.engine import Watch, curate
from blip3o_core.curation.models import judges
from blip3o_core.curation.work import Work, read_table
from blip3o_core.errors import Blip3oError
from tests.curation import own_judges
from tests.support.curation import CAPTION, encoded, pair, settings, texture, write_tar
from tests.support.stand_in import StandIn, says

OWN = "tests.curation.own_judges:Bright"
FREE = {"min_reference_side": 48, "max_distance": 64, "max_changed": 1}


@pytest.fixture(autouse=True)
def fresh():
    own_judges.ASKED.clear()
    own_judges.REPAIRED.clear()
    own_judges.STEADY.clear()
    own_judges.VERSION[0] = "1"
    judges._load.cache_clear()


def source(tmp_path, captions, dark=()):
    """A tar of images with these captions, some of them darker."""
    members = []
    for number, caption in enumerate(captions):
        image = texture(number)
        if number in dark:
            image = Image.eval(image, lambda value: value // 3)
        members += pair(f"{number:04d}", encoded(image), caption)
    return str(write_tar(tmp_path / "data.tar", members))


def run(path, out, told=None, **judge):
    one = {"name": "bright", "use": OWN, **judge}
    return curate(settings([path], out, judges=[one]), Watch(tell=(told if told is not None else []).append))


def numbers(outcome) -> list:
    return read_table(outcome.work.features("data-data"))["judge.bright"].to_pylist()


def test_a_number_is_a_feature_with_limits(tmp_path):
    """Catches a judge with another sample's text, a limit that drops nothing, and one that asks again."""
    path = source(tmp_path, [f"{CAPTION} {number}" for number in range(9)], dark=(2, 8))
    outcome = run(path, tmp_path / "out", min=0.3)
    assert dict(outcome.reasons) == {"kept": 7, "judge.bright": 2}
    drops = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [drop["key"] for drop in drops] == ["0002", "0008"] and all(drop["value"] < 0.3 for drop in drops)
    assert [len(prompts) for prompts, _, _ in own_judges.ASKED] == [8, 1]
    assert own_judges.ASKED[0][0] == [f"{CAPTION} {number}" for number in range(8)]
    assert "judge bright" in (tmp_path / "out" / "report.html").read_text()
    assert run(path, tmp_path / "out", min=0.0).reasons["kept"] == 9
    assert len(own_judges.ASKED) == 2


def test_edits_have_their_references_and_meta(tmp_path):
    """Catches a judge of edits that never sees what was edited."""
    plain, other = encoded(texture(0)), encoded(texture(1))
    members = [*pair("a", plain, "make it red"), ("a.reference.png", other), ("a.json", b'{"origin": "x"}')]
    path = str(write_tar(tmp_path / "data.tar", members))
    one = {"name": "bright", "use": OWN}
    outcome = curate(settings([path], tmp_path / "out", judges=[one], edits=FREE))
    ((prompts, references, meta),) = own_judges.ASKED
    assert outcome.reasons["kept"] == 1 and (prompts, references) == (["make it red"], [1])
    assert meta[0]["origin"] == "x"


def test_another_version_or_option_measures_again(tmp_path):
    """Catches numbers of an earlier judge that are kept as those of the present one."""
    path, out = source(tmp_path, [CAPTION]), tmp_path / "out"
    first = numbers(run(path, out))
    own_judges.VERSION[0] = "2"
    run(path, out)
    assert len(own_judges.ASKED) == 2
    assert numbers(run(path, out, options={"scale": 0.5}))[0] == pytest.approx(first[0] / 2)
    run(path, out, options={"scale": 0.5}, timeout=7)
    assert len(own_judges.ASKED) == 3


def test_a_fault_of_one_sample_costs_its_number_alone(tmp_path):
    """Catches a fault that ends the run, takes the numbers of its neighbours, or is not told."""
    captions = [CAPTION, f"{CAPTION} broken", f"{CAPTION} silent", f"{CAPTION} again"]
    told: list[str] = []
    outcome = run(source(tmp_path, captions), tmp_path / "out", told, min=0.01)
    found = numbers(outcome)
    assert [number is None for number in found] == [False, True, True, False] and outcome.reasons["kept"] == 4
    (fault,) = map(json.loads, (tmp_path / "out" / "faults.jsonl").read_text().splitlines())
    assert fault["place"].endswith("0001.png") and fault["model"] == "judge bright"
    assert "this one breaks it" in fault["reason"]
    assert any("judge bright failed for 1 samples" in line for line in told)


def test_what_was_not_judged_is_asked_about_again(tmp_path):
    """Catches a sample that never gets its number after its judge was repaired, and numbers that are paid for twice."""
    captions = [CAPTION, f"{CAPTION} broken", f"{CAPTION} silent", f"{CAPTION} again"]
    path, out = source(tmp_path, captions), tmp_path / "out"
    first = numbers(run(path, out))
    before = [(out / "shards" / name).read_bytes() for name in ("data-data.tar", "manifest.json")]
    asked = len(own_judges.ASKED)
    assert numbers(run(path, out)) == first and own_judges.ASKED[asked][0] == [captions[1]]
    own_judges.REPAIRED.append(True)
    asked = len(own_judges.ASKED)
    outcome = run(path, out)
    assert [prompts for prompts, _, _ in own_judges.ASKED[asked:]] == [[captions[1]]]
    found = numbers(outcome)
    assert found[1] is not None and [found[0], *found[2:]] == [first[0], *first[2:]]
    assert not outcome.work.faults.read_text()
    assert [(out / "shards" / name).read_bytes() for name in ("data-data.tar", "manifest.json")] == before
    asked = len(own_judges.ASKED)
    assert numbers(run(path, out)) == found and len(own_judges.ASKED) == asked


def test_only_the_judge_that_failed_is_asked_again(tmp_path):
    """Catches a good judge that is paid again because another one was down."""
    captions = [CAPTION, f"{CAPTION} broken"]
    two = [{"name": "bright", "use": OWN}, {"name": "steady", "use": "tests.curation.own_judges:steady"}]
    given = settings([source(tmp_path, captions)], tmp_path / "out", judges=two)
    curate(given)
    own_judges.REPAIRED.append(True)
    table = read_table(curate(given).work.features("data-data"))
    assert own_judges.STEADY == captions and table["judge.steady"].to_pylist() == [0.5, 0.5]
    assert None not in table["judge.bright"].to_pylist()


def test_the_page_says_what_could_not_be_read_or_judged(tmp_path):
    """Catches a report from which nobody learns that a judge failed, or why an image is missing."""
    members = [*pair("a", encoded(texture(1)), f"{CAPTION} broken"), *pair("b", b"<b>no image", CAPTION)]
    path = str(write_tar(tmp_path / "data.tar", members))
    outcome = run(path, tmp_path / "out")
    page = outcome.work.report.read_text()
    assert "What could not be read or judged" in page
    assert "cannot be read: 1</h3>" in page and "judge bright: 1</h3>" in page
    assert "this one breaks it" in page and "data.tar:b.png" in page
    good = run(source(tmp_path / "good", [CAPTION]), tmp_path / "well")
    assert "What could not be read or judged" not in good.work.report.read_text()


def test_stop_ends_the_run(tmp_path):
    """Catches `on_error: stop` that goes on without numbers."""
    with pytest.raises(Blip3oError, match="this one breaks it"):
        run(source(tmp_path, [f"{CAPTION} broken"]), tmp_path / "out", on_error="stop")
    assert not Work(tmp_path / "out").features("data-data").exists()


def test_a_judge_that_never_answers_is_given_up(tmp_path):
    """Catches a curation that waits for a hung judge at every sample."""
    path = source(tmp_path, [f"{CAPTION} {number}" for number in range(33)])
    outcome = run(path, tmp_path / "out", use="tests.curation.own_judges:never", timeout=0.01)
    assert outcome.reasons["kept"] == 33 and numbers(outcome) == [None] * 33
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out" / "faults.jsonl").read_text().splitlines()]
    assert "did not answer within" in reasons[0] or "still works" in reasons[0]
    assert len(reasons) == 33 and "3 times in a row" in reasons[-1]


def test_a_chat_judge_that_answers_garbage_ends_nothing(tmp_path):
    """Catches a server that answers nonsense, or only status 500, and takes the run with it."""
    path = source(tmp_path, [CAPTION])
    for number, step in enumerate((says("<html>"), says({"error": "full"}, 500))):
        with StandIn(step) as server:
            options = {"url": server.url, "model": "seer", "retries": 1, "wait": 0}
            outcome = run(path, tmp_path / f"out{number}", use="vlm", options=options)
        assert outcome.reasons["kept"] == 1 and numbers(outcome) == [None]
        assert "judge bright" in (tmp_path / f"out{number}" / "faults.jsonl").read_text()


def test_a_judge_that_cannot_be_made_is_told_before_anything_is_read(tmp_path):
    """Catches a wrong option that costs every sample its number, and a weight, which would do nothing."""
    path = source(tmp_path, [CAPTION])
    with pytest.raises(Blip3oError, match="no option 'size'"):
        run(path, tmp_path / "out", options={"size": 1})
    assert not (tmp_path / "out").exists()
    with pytest.raises(Blip3oError, match="weight"):
        run(path, tmp_path / "out", weight=2)
