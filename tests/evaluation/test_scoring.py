"""Scores: each image is asked about once, failures again, and what a scorer answers is checked before it counts."""

import json
import math
import threading
from pathlib import Path

import pytest
import torch

from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation import layout, results, scoring
from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.reward_scorer import RewardScorer
from blip3o_core.evaluation.scoring import read_scores, score
from blip3o_core.images.png import save_png
from blip3o_core.rewards.load import load_rewards
from blip3o_core.rewards.mix import Part
from tests.support.evaluation import StandInScorer, StandInTask, made, words

ITEMS = [Item(f"i{k}", f"prompt {k}", "even" if k % 2 == 0 else "odd") for k in range(40)]


@pytest.fixture
def run(tmp_path):
    """(folder, rows) of 40 images; image k has the grey k."""
    return made(StandInTask(ITEMS), tmp_path / "run")


def grey(_, image: torch.Tensor) -> dict[str, float]:
    return {"right": round(float(image[0, 0, 0]) * 255) / 255}


def test_every_image_is_judged_once_with_its_own_item(run):
    """Catches images that meet the wrong item, and a second run that asks, and pays, again."""
    folder, rows = run
    scorer = StandInScorer(lambda item, image: {"right": float(round(float(image[0, 0, 0]) * 255) == int(item.id[1:]))})
    found = score(folder, scorer, rows)
    assert scorer.asked == [item.id for item in ITEMS] and all(one.measures == {"right": 1.0} for one in found)
    before = folder.scores(scorer.name).read_bytes()
    again = StandInScorer(grey)
    assert score(folder, again, rows) == found and again.asked == []
    assert folder.scores(scorer.name).read_bytes() == before and before.count(b"\n") == 40


def test_a_changed_image_and_a_new_version_are_asked_again(run):
    """Catches a number of an image that is not there any more, and numbers of two versions of a judge in one mean."""
    folder, rows = run
    score(folder, StandInScorer(grey), rows)
    save_png(folder.image(rows[7]), torch.ones(8, 8, 3), {})
    again = StandInScorer(grey)
    assert score(folder, again, rows)[7].measures == {"right": 1.0} and again.asked == ["i7"]
    other = StandInScorer(grey, version="2")
    found = score(folder, other, rows)
    assert len(other.asked) == 40 and {one.version for one in found} == {"2"}
    assert {one.version for one in read_scores(folder.scores("stand-in"))} == {"2"}


def test_a_failure_is_recorded_as_it_came_and_asked_again(run):
    """Catches a failure that counts as a number or as nothing to judge, loses its words, or is never tried again."""
    folder, rows = run
    long = "the judge said: " + "no " * 300

    def fails(item, image):
        kinds = {"i3": Blip3oError(long), "i5": ValueError("bad"), "i6": None}
        return kinds.get(item.id, grey(item, image))

    found = score(folder, StandInScorer(fails), rows)
    assert found[3].failure == long and found[5].failure == "ValueError: bad" and found[3].measures is None
    assert found[6].measures is None and found[6].failure is None
    again = StandInScorer(grey)
    assert score(folder, again, rows)[3].measures == {"right": 3 / 255} and again.asked == ["i3", "i5"]


@pytest.mark.parametrize(
    "answer, says",
    [
        ({"right": 1.5}, "it gave right 1.5; its range is 0 to 1."),
        ({"right": math.nan}, "it gave right nan; its range is 0 to 1."),
        ({"rihgt": 1.0}, "it gave a measure 'rihgt', which is none of right."),
    ],
)
def test_a_number_that_cannot_be_is_a_failure(answer, says, run):
    """Catches NaN, or a number on another scale, in a mean."""
    folder, rows = run
    found = score(folder, StandInScorer(lambda item, image: answer if item.id == "i2" else grey(item, image)), rows)
    assert found[2].failure == says and found[3].failure is None


def test_a_scorer_that_is_gone_stops_the_run_and_loses_nothing(run):
    """Catches hours of questions to a judge that answers none of them, and answers that are lost when it stops."""
    folder, rows = run
    calls = []

    class Gone(StandInScorer):
        def __call__(self, items, candidates):
            calls.append(len(items))
            if len(calls) > 1:
                raise ConnectionError("refused")
            return super().__call__(items, candidates)

    more = [*rows, *rows_like(folder, rows, 3)]
    with pytest.raises(Blip3oError, match=r"failed for 48 images in a row; .* ConnectionError: refused"):
        score(folder, Gone(grey), more)
    assert calls == [16] * 4
    again = StandInScorer(grey)
    score(folder, again, more)
    assert len(again.asked) == len(more) - 16 and again.asked[:2] == ["i16", "i17"]


def test_images_that_failed_before_do_not_stop_the_run(run):
    """Catches a second run that ends without results, because images that a judge refuses come one after the other; and
    a scorer that is gone and is asked about all other images."""
    folder, rows = run
    more = [*rows, *rows_like(folder, rows, 1)]

    def refuses(item, image):
        return Blip3oError("refused") if int(item.id[1:]) % 2 else grey(item, image)

    score(folder, StandInScorer(refuses), rows_like(folder, rows, 1)[:2])
    scorer = StandInScorer(refuses)
    scorer.together = 2
    first = score(folder, scorer, more)
    again = StandInScorer(lambda item, image: Blip3oError("refused"))
    again.together = 2
    assert score(folder, again, more) == first and len(again.asked) == 40
    folder.scores("stand-in").write_text(
        "".join(f"{one.line()}\n" for one in read_scores(folder.scores("stand-in")) if one.sample == 1 and one.failure)
    )
    gone = StandInScorer(lambda item, image: Blip3oError("gone"))
    gone.together = 4
    with pytest.raises(Blip3oError, match="failed for 12 images in a row"):
        score(folder, gone, more)
    assert len(gone.asked) == 12


def rows_like(folder, rows, times: int) -> list:
    """More rows, with the images of these."""
    from dataclasses import replace

    return [replace(row, sample=sample + 1) for sample in range(times) for row in rows]


def test_a_scorer_has_a_folder_of_its_own(run):
    """Catches raw answers of a judge that lie outside the run."""
    folder, rows = run
    scorer, places = StandInScorer(grey), []
    scorer.keep_in = places.append
    score(folder, scorer, rows)
    assert places == [folder.path / "scores" / "stand-in"]


def test_a_line_that_was_cut_is_asked_again(run, monkeypatch):
    """Catches half a line that ends the run, and one that swallows the next answer, also when that run is cut, too."""
    folder, rows = run
    score(folder, StandInScorer(grey), rows)
    path = folder.scores("stand-in")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    again = StandInScorer(grey)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scoring, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        score(folder, again, rows)
    assert again.asked == ["i39"]
    score(folder, again, rows)
    assert again.asked == ["i39"] and path.read_bytes() == whole


# --- rewards -----------------------------------------------------------------------------------------------


def test_a_reward_gets_what_the_task_says(tmp_path):
    """Catches rewards that see no fields of the prompt file, and their numbers under another name."""
    task = StandInTask([Item("a", "a sign", facts={"words": "open"}, meta={"more": 2})])
    folder, rows = made(task, tmp_path / "run")
    (tmp_path / "own.py").write_text(
        "def judge(images, prompts, references, masks, meta):\n"
        "    assert prompts == ['a sign'] and meta == [{'words': 'open', 'more': 2}]\n"
        "    return [0.25]\n"
    )
    [part] = load_rewards([{"name": "mine", "use": f"{tmp_path / 'own.py'}:judge"}], own_code=True).parts
    [found] = score(folder, RewardScorer(part), rows)
    assert found.measures == {"score": 0.25} and folder.scores("mine").is_file()


def test_a_reward_that_still_works_is_not_asked_again(tmp_path):
    """Catches two calls at once of a reward that is too slow: they share its network and its memory."""
    folder, rows = made(StandInTask(ITEMS[:4]), tmp_path / "run")
    free, calls = threading.Event(), []

    class Slow:
        name, version, range = "slow", "1", (0.0, 1.0)

        def __call__(self, images, *_):
            calls.append(len(images))
            free.wait(60)
            return [0.5] * len(images)

    scorer = RewardScorer(Part(Slow(), timeout=0.05))
    found = score(folder, scorer, rows[:2]) + score(folder, scorer, rows[2:])
    free.set()
    assert calls == [2] and "did not answer within" in found[0].failure and "still works" in found[2].failure


def test_a_reward_that_fails_is_no_end_of_the_run(tmp_path):
    """Catches a reward's exception that ends the evaluation of all others."""
    folder, rows = made(StandInTask(ITEMS[:2]), tmp_path / "run")
    (tmp_path / "own.py").write_text(
        "def judge(images, prompts, references, masks, meta):\n    return [0.5, float('nan')]\n"
    )
    [part] = load_rewards([{"name": "mine", "use": f"{tmp_path / 'own.py'}:judge"}], own_code=True).parts
    found = score(folder, RewardScorer(part), rows)
    assert found[0].measures == {"score": 0.5} and "a finite number" in found[1].failure


def test_a_reward_with_the_name_of_a_scorer(tiny, tmp_path, capsys):
    """Catches two judges that write one file of scores."""
    (tmp_path / "r.yaml").write_text("rewards:\n  - {name: judge, use: tiny}\n")
    assert main(words(tiny, tmp_path / "out", "--limit=1", f"--reward={tmp_path / 'r.yaml'}")) == 2
    assert "has a scorer of its own with the name 'judge'" in capsys.readouterr().err


# --- layout and results ------------------------------------------------------------------------------------


def test_the_layout_is_finished_when_every_image_is_there(run):
    """Catches a grid of images that are not all there, and files of the layout that are left out."""
    folder, rows = run
    task = StandInTask(ITEMS)
    assert layout.write(folder, task, rows) and task.finished == [folder.images]
    assert (folder.images / "i3" / "metadata.json").read_text() == "prompt 3"
    folder.image(rows[3]).unlink()
    task.finished.clear()
    assert not layout.write(folder, task, rows) and not task.finished


def test_single_samples_lie_apart_where_the_layout_has_none(tmp_path):
    """Catches single samples among the grids that the official scorer reads."""
    task = StandInTask(ITEMS[:1], apart=True)
    folder, rows = made(task, tmp_path / "run")
    assert folder.image(rows[0]) == tmp_path / "run" / "samples" / "i0" / "0.png"


def summary(folder, rows, task: StandInTask, scorer: StandInScorer) -> dict:
    found = results.summarise(task, folder, rows, [results.Scored(scorer, score(folder, scorer, rows))])
    results.write(folder, found)
    assert json.loads(folder.results.read_text()) == json.loads(json.dumps(found))
    return found


def test_means_are_of_items_by_category(tmp_path):
    """Catches a mean over images, where an item with more judged samples would count more, and failures that count."""
    items = [Item("a", "1", "x"), Item("b", "2", "x"), Item("c", "3", "y"), Item("d", "4", "z")]
    task = StandInTask(items, samples=2)
    folder, rows = made(task, tmp_path / "run")
    given = iter([1, 1, 0, None, 1, 0, Blip3oError("no"), Blip3oError("no")])

    def answer(item, image):
        value = next(given)
        return value if value is None or isinstance(value, Exception) else {"right": value}

    found = summary(folder, rows, task, StandInScorer(answer))
    [scorer] = found["scorers"]
    right = scorer["measures"]["right"]
    assert (scorer["n"], scorer["failures"], scorer["unjudged"]) == (5, 2, 1)
    assert {name: (one["mean"], one["n"]) for name, one in right["categories"].items()} == {
        "x": (0.5, 2),
        "y": (0.5, 1),
    }
    assert right["overall"]["mean"] == 0.5 and right["overall"]["n"] == 3
    assert found["official"] == "score images"


@pytest.mark.parametrize("weights, mean", [(None, 1 / 4), ({"x": 1, "y": 1}, 1 / 2), ({"x": 3, "y": 1, "z": 9}, 1 / 4)])
def test_categories_have_the_weights_of_the_benchmark(weights, mean, tmp_path):
    """Catches an overall number that weighs categories by how many items they have, or counts those that are absent."""
    items = [*(Item(f"x{k}", "p", "x") for k in range(3)), Item("y", "p", "y")]
    task = StandInTask(items, weights=weights)
    folder, rows = made(task, tmp_path / "run")
    found = summary(folder, rows, task, StandInScorer(lambda item, image: {"right": float(item.category == "y")}))
    overall = found["scorers"][0]["measures"]["right"]["overall"]
    assert overall["mean"] == pytest.approx(mean) and overall["low"] <= mean <= overall["high"] and overall["n"] == 4


def test_names_of_categories_do_not_break_the_table(tmp_path):
    """Catches a category with a bar in its name, whose numbers would stand in other columns."""
    task = StandInTask([Item("a", "p", "x|y"), Item("b", "p", "z")])
    folder, rows = made(task, tmp_path / "run")
    summary(folder, rows, task, StandInScorer(lambda item, image: {"right": 1.0}))
    assert "| x\\|y | 1.000 (1.000 to 1.000) | 1 |" in folder.report.read_text()


def test_nothing_to_judge_is_no_number(tmp_path):
    """Catches a mean of nothing, and a table that ends with a traceback."""
    task = StandInTask(ITEMS[:2])
    folder, rows = made(task, tmp_path / "run")
    found = summary(folder, rows, task, StandInScorer(lambda item, image: None))
    assert found["scorers"][0]["measures"]["right"] == {"overall": None, "categories": {}}
    assert "| **overall** | - | 0 |" in folder.report.read_text()


def test_results_name_no_place_of_this_machine(run):
    """Catches results that cannot be published, and that differ when the folder is moved."""
    folder, rows = run
    summary(folder, rows, StandInTask(ITEMS), StandInScorer(grey))
    for path in (folder.results, folder.report, folder.scores("stand-in")):
        assert str(Path(folder.path).parent) not in path.read_text()
