"""Checkpoints of the tiny world side by side: numbers are of the same items and seeds, and nothing is judged twice."""

import json
import math
import shutil

import pytest

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation import insights
from blip3o_core.tiny import edit_evaluation, evaluation
from blip3o_core.tiny.scenes.edits import EDIT_KINDS
from blip3o_core.tiny.scenes.spec import Detection, Verdict

FACTS = {"numbers": {"dtype": "fp32"}, "versions": {"torch": "1"}}
NOTHING = Detection(None, ())


@pytest.fixture
def asked(monkeypatch) -> list:
    """(column's mode, seeds) of every batch that would be made. Edits lose 4 of 255 but where latents are used."""
    batches = []

    def judge_edits(pipeline, pairs, seeds, settings, mode):
        batches.append((mode, seeds))
        worst = 0.0 if mode.noise else 4.0
        verdicts = [
            Verdict(mode.noise or edit.kind == "keep", True, 1.0, (), NOTHING, None, worst + seed % 2, None)
            for (edit, _), seed in zip(pairs, seeds, strict=True)
        ]
        return [], verdicts

    def judge_images(pipeline, source, prompts, seeds, settings, stopwatch):
        batches.append((pipeline, seeds))
        right = [prompt.category != "counting" or pipeline.name == "better" for prompt in prompts]
        return [], [Verdict(one, one, float(one), (), NOTHING) for one in right]

    monkeypatch.setattr(edit_evaluation, "judge_batch", judge_edits)
    monkeypatch.setattr(evaluation, "judge_batch", judge_images)
    return batches


class Standing:
    """In place of a pipeline: the judge of these tests needs no images."""

    device = None

    def __init__(self, name: str = ""):
        self.name, self.checkpoint = name, open_checkpoint(BUNDLED)
        self.reference_mode = self.checkpoint.reference_mode


def references(folder, count: int = 24, **more) -> dict:
    checkpoint = open_checkpoint(BUNDLED)
    columns = [
        insights.Column("tokens", checkpoint, "tokens"),
        insights.Column("both", checkpoint, "both", "tokens"),
    ]
    questions = insights.Edits(edit_evaluation.Settings(count=count, batch=7), **more)
    return insights.compare("references", columns, questions, folder, lambda _: Standing(), FACTS)


def test_differences_are_of_the_same_items_and_seeds(asked, tmp_path):
    """Catches means of other items, a sign turned round, an error of unpaired numbers, and seeds that differ."""
    found = references(tmp_path, runs=2)
    right, outside = found["measures"]  # nothing has a texture
    assert right["columns"]["tokens"]["overall"]["mean"] == pytest.approx(1 / 6)
    assert right["columns"]["both"]["overall"]["mean"] == 1
    change = outside["differences"]["both"]
    assert set(change["categories"]) == set(EDIT_KINDS)
    # Every pair differs by 4, so the error is 0 although the numbers themselves vary.
    assert change["overall"]["mean"] == -4 and change["overall"]["error"] == 0 and change["overall"]["n"] == 24
    assert right["differences"]["both"]["categories"]["keep"]["mean"] == 0
    half = len(asked) // 2
    assert [seeds for _, seeds in asked[:half]] == [seeds for _, seeds in asked[half:]]
    assert len({seed for _, seeds in asked[:half] for seed in seeds}) == 48


def test_the_error_of_a_mean_over_categories(asked, tmp_path):
    """Catches an error that counts what categories differ by, and one that forgets how many items there are."""
    found = references(tmp_path)["measures"][0]["columns"]["tokens"]
    assert found["overall"]["error"] == 0  # "keep" is always right, the others never
    assert insights._error([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0]]) == pytest.approx(math.sqrt(1 / 3 / 4) / 2)
    assert insights._error([[1.0]]) is None


def test_an_interrupted_comparison_goes_on(asked, tmp_path, monkeypatch):
    """Catches batches that are judged twice or never, and a line that a kill cut short taken for a batch."""
    whole, calls = edit_evaluation.judge_batch, []
    expected = references(tmp_path / "whole")

    def cut(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(edit_evaluation, "judge_batch", cut)
    with pytest.raises(KeyboardInterrupt):
        references(tmp_path / "cut")
    with open(tmp_path / "cut" / "verdicts" / "tokens.jsonl", "a") as file:
        file.write('{"run": 0, "first": 14, "verd')
    assert references(tmp_path / "cut") == expected
    assert len(calls) == 1 + 8
    assert references(tmp_path / "cut") == expected and len(calls) == 1 + 8


def test_a_folder_of_another_comparison_is_refused(asked, tmp_path):
    """Catches verdicts of other settings that are taken for these."""
    references(tmp_path)
    with pytest.raises(Blip3oError, match=r"different comparison:\n.*settings.count: 24 in the folder, 12 now"):
        references(tmp_path, count=12)


def test_a_mode_that_a_checkpoint_lacks_is_said_first(asked, tmp_path, tiny):
    """Catches half of a table that is made before the mode is looked at."""
    column = insights.Column("both", open_checkpoint(tiny), "both")
    with pytest.raises(Blip3oError, match="does not support"):
        insights.compare("references", [column], insights.Edits(edit_evaluation.Settings()), tmp_path, None, FACTS)
    assert not asked and not any(tmp_path.iterdir())


def test_the_command_writes_and_prints_a_table(asked, tmp_path, monkeypatch, capsys):
    """Catches columns exchanged, numbers that are only printed, and a record without machine or settings."""
    loaded = iter(["worse", "better"])
    monkeypatch.setattr("blip3o_core.cli.recipe_insights.load_pipeline", lambda *_: Standing(next(loaded)))
    other = shutil.copytree(BUNDLED, tmp_path / "after")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    out = tmp_path / "out"
    assert main(["recipe", "insights", "rl", "tiny", str(other), "--count=24", "--seeds=2", f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert said == (out / "results.md").read_text() + f"{out / 'results.md'}\n"
    row = next(line for line in said.splitlines() if line.startswith("| counting"))
    assert row.split("|")[2:4] == [" 0.0 ", " 100.0 "] and "+100.0 ± 0.0 (+100.0 to +100.0)" in row
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["runs"] == 2 and results["machine"]["processor"]
    world = evaluation.Settings(edition=evaluation.edition_of(open_checkpoint(BUNDLED))).world
    assert set(results["measures"][0]["columns"]["before"]["categories"]) == set(world.categories)
    assert str(tmp_path) not in (out / "results.json").read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["rl", "tiny"], "rl compares 2 checkpoints, and 1 is given"),
        (["references", "tiny", "tiny"], "references compares 1 checkpoint, and 2 are given"),
        (["references", "tiny", "--any-phrasing"], "--any-phrasing"),
        (["rl"], "rl BEFORE AFTER"),
        (["rl", "tiny", "tiny", "--count=3"], "--count"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_said(words, message, asked, capsys):
    """Catches a table whose columns are not what was meant."""
    assert main(["recipe", "insights", *words]) == 2 and not asked
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_edits_of_the_bundled_model_are_made_and_judged(tmp_path, capsys):
    """Catches a comparison that runs on stand-ins alone."""
    words = ["tiny", "--count=8", "--steps=1", "--guidance=1", f"--out={tmp_path / 'out'}", "--device=cpu"]
    assert main(["recipe", "insights", "references", *words]) == 0
    assert "Error outside the edit" in capsys.readouterr().out
