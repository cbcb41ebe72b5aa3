"""`blip3o evaluate` from its words to its results, on a tiny random model."""

import json
from pathlib import Path

import pytest

from blip3o_core.cli.main import main
from blip3o_core.images.png import read_settings
from blip3o_core.pipeline import Pipeline
from blip3o_core.seeds import seed_of


def words(model: Path, out: Path, *more: str, task: str = "tiny") -> list[str]:
    return ["evaluate", task, f"--checkpoint={model}", f"--out={out}", "--device=cpu", "--steps=1", *more]


def files(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> content of every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory) -> Path:
    """A whole run of 12 images."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(words(tiny, out, "--limit=6", "--samples=2", "--batch=5")) == 0
    return out


def test_a_run_has_every_image_and_every_number(done):
    """Catches images that are missing or have other names, and results that leave out an image, a category or who
    made them."""
    assert sorted(path.name for path in (done / "images").iterdir()) == [
        f"{k:04d}-{s}.png" for k in range(6) for s in (0, 1)
    ]
    found = json.loads((done / "results.json").read_text())
    assert found["images"] == {"wanted": 12, "made": 12, "failed": []}
    assert found["run"] == json.loads((done / "run.json").read_text()) and found["task"] == "tiny"
    [judge] = found["scorers"]
    assert judge["n"] == 12 and judge["failures"] == judge["unjudged"] == 0
    right = judge["measures"]["right"]
    assert len(right["categories"]) == 6 and right["overall"]["n"] == 6
    assert (done / "scores" / "judge.jsonl").read_text().count("\n") == 12
    assert all(name in (done / "results.md").read_text() for name in right["categories"])


def test_an_image_has_the_seed_of_its_item(done):
    """Catches seeds that follow the order or the batch of items, and images that do not say how they came about."""
    for name, item, sample in (("0000-0.png", "0000", 0), ("0004-1.png", "0004", 1)):
        settings = read_settings(done / "images" / name)
        assert settings["seed"] == settings["noise_seed"] == seed_of("evaluation", "tiny", item, sample)
        assert settings["evaluation"] == {"task": "tiny", "task_version": "1", "item": item, "sample": sample}


def test_a_second_run_asks_and_makes_nothing(done, tiny, monkeypatch):
    """Catches a run that makes images or asks scorers again, or writes other results."""
    before = files(done)
    monkeypatch.setattr(Pipeline, "__init__", lambda *_: pytest.fail("it loads the model again"))
    monkeypatch.setattr("blip3o_core.evaluation.tasks.tiny.judged", lambda *_: pytest.fail("it judges again"))
    assert main(words(tiny, done, "--limit=6", "--samples=2", "--batch=5")) == 0
    assert files(done) == before
