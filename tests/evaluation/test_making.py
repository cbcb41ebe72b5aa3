"""`blip3o evaluate` from its words to its results, on a tiny random model."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation import making
from blip3o_core.evaluation.interface import Item, Reference
from blip3o_core.evaluation.plan import batches, digest_of, rows_of
from blip3o_core.evaluation.tasks.find import open_task
from blip3o_core.evaluation.tasks.imgedit import ImgEdit
from blip3o_core.images.png import read_settings
from blip3o_core.pipeline import Pipeline
from blip3o_core.seeds import seed_of
from tests.support.evaluation import StandInTask, files, words

SMALL = ("--limit=6", "--samples=2", "--batch=5")


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory) -> Path:
    """A whole run of 12 images."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(words(tiny, out, *SMALL)) == 0
    return out


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_run_has_every_image_and_every_number(done):
    """Catches images that are missing or have other names, and results that leave out an image, a category or who
    made them."""
    names = sorted(path.name for path in (done / "images").iterdir())
    assert names == [f"{item:04d}-{sample}.png" for item in range(6) for sample in (0, 1)]
    found = results(done)
    assert found["images"] == {"wanted": 12, "made": 12, "failed": []}
    assert found["run"] == json.loads((done / "run.json").read_text()) and found["task"] == "tiny"
    assert found["run"]["settings"]["batch"] == 5 and len(found["run"]["checkpoint"]["identity"]) == 32
    [judge] = found["scorers"]
    assert judge["n"] == 12 and judge["failures"] == judge["unjudged"] == 0
    right = judge["measures"]["right"]
    assert len(right["categories"]) == 6 and right["overall"]["n"] == 6
    assert (done / "scores" / "judge.jsonl").read_text().count("\n") == 12
    assert all(f"| {name} |" in (done / "results.md").read_text() for name in right["categories"])


def test_an_image_has_the_seed_of_its_item(done):
    """Catches seeds that follow the order or the batch of items, and images that do not say how they came about."""
    for name, item, sample in (("0000-0.png", "0000", 0), ("0004-1.png", "0004", 1)):
        settings = read_settings(done / "images" / name)
        assert settings["seed"] == settings["noise_seed"] == seed_of("evaluation", "tiny", item, sample)
        assert settings["evaluation"] == {"task": "tiny", "task_version": "1", "item": item, "sample": sample}


def test_the_command_in_an_image_makes_it_again(tiny, tmp_path):
    """Catches an image that `generate` cannot repeat from what is stored with it."""
    assert main(words(tiny, tmp_path / "run", "--limit=1", "--dtype=fp32", "--top-k=50")) == 0
    image = tmp_path / "run" / "images" / "0000-0.png"
    settings = read_settings(image)
    again = ["generate", f"--checkpoint={tiny}", f"--out={tmp_path / 'again.png'}"]
    again += [
        f"--{name.replace('_', '-')}={settings[name]}"
        for name in (
            "prompt",
            "seed",
            "noise_seed",
            "steps",
            "guidance",
            "top_k",
            "top_p",
            "temperature",
            "dtype",
            "device",
        )
    ]
    assert main(again) == 0
    assert Image.open(image).tobytes() == Image.open(tmp_path / "again.png").tobytes()


def test_a_second_run_asks_and_makes_nothing(done, tiny, monkeypatch):
    """Catches a run that makes images or asks scorers again, or writes other results."""
    before = files(done)
    monkeypatch.setattr(Pipeline, "__init__", lambda *_: pytest.fail("it loads the model again"))
    monkeypatch.setattr("blip3o_core.evaluation.tasks.tiny.judged", lambda *_: pytest.fail("it judges again"))
    assert main(words(tiny, done, *SMALL)) == 0
    assert files(done) == before


@pytest.mark.slow
def test_edits_see_their_own_references(tmp_path):
    """Catches edits of the wrong image: what must not change would differ by some 60 of 255."""
    assert main(words(BUNDLED, tmp_path, "--limit=6", "--dtype=fp32", "--steps=4", task="tiny-edits")) == 0
    found = results(tmp_path)
    assert found["images"]["made"] == 6 and found["run"]["settings"]["reference_mode"] == "both"
    measures = found["scorers"][0]["measures"]
    assert list(measures) == ["right", "objects", "outside", "surfaces"] and measures["outside"]["overall"]["mean"] < 20


def test_batches_are_of_whole_order_and_edits_are_alone():
    """Catches a batch whose rows depend on which process makes it, and edits in one batch, which share references."""
    reference = (Reference("x", lambda: b""),)
    items = [Item(f"{k}", "long" if k == 3 else "a", references=reference if k == 1 else ()) for k in range(6)]
    rows = rows_of(StandInTask(items), items, 1)
    planned = [[row.item.id for row in batch] for batch in batches(rows, 2, lambda item: item.prompt != "long")]
    assert planned == [["1"], ["0", "2"], ["3"], ["4", "5"]]


@pytest.mark.parametrize("ids", [("a", "a-1"), ("A", "a")])
def test_two_images_of_one_file_are_refused(ids):
    """Catches a second sample that takes the name of another item's first one."""
    task = ImgEdit([Item(one, "p") for one in ids])
    with pytest.raises(Blip3oError, match=f"item {ids[0]}, sample [01], and item {ids[1]}, sample 0. Give fewer"):
        rows_of(task, task.items, 2)
    assert len(rows_of(ImgEdit([Item("a", "p"), Item("b-1", "p")]), [Item("a", "p"), Item("b-1", "p")], 2)) == 4


def test_an_items_digest_is_of_what_it_asks():
    """Catches an item that changed and keeps its images, and one that counts as new because its judge's data differ."""
    item = Item("a", "a cat", "x", (Reference("r", lambda: b"1"),), {"n": 1}, {"any": object()})
    same = Item("a", "a cat", "x", (Reference("other name", lambda: b"1"),), {"n": 1}, {"any": object()})
    assert digest_of(item) == digest_of(same)
    others = [
        Item("b", "a cat", "x", item.references, item.facts),
        Item("a", "a dog", "x", item.references, item.facts),
        Item("a", "a cat", "y", item.references, item.facts),
        Item("a", "a cat", "x", (Reference("r", lambda: b"2"),), item.facts),
        Item("a", "a cat", "x", (), item.facts),
        Item("a", "a cat", "x", item.references, {"n": 2}),
        Item("a", "a cat", "x", item.references, item.facts, mask=lambda: torch.ones(2, 2)),
    ]
    assert len({digest_of(each) for each in (item, *others)}) == 8


# --- images that fail --------------------------------------------------------------------------------------


@pytest.fixture
def prompts(tmp_path) -> Path:
    """A prompt that is too long for the model, between others."""
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "a cat"}, {"prompt": "cat " * 3000, "id": "long"}, {"prompt": "a dog", "category": "dogs"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_an_image_that_fails_is_recorded_and_the_rest_is_made(prompts, tiny, tmp_path, capsys):
    """Catches a run that ends at the first prompt that the model cannot read, and a failure that nobody hears of."""
    out = tmp_path / "out"
    again = words(tiny, out, f"--data={prompts}", "--reward=tiny", task="own")
    assert main(again) == 1
    said = capsys.readouterr().err
    assert "1 of 3 images could not be made:\n  long, sample 0: " in said and "same command again" in said
    found = results(out)
    assert found["images"]["made"] == 2 and [one["item"] for one in found["images"]["failed"]] == ["long"]
    assert sorted(path.name for path in (out / "images").iterdir()) == ["00000-0.png", "00002-0.png"]
    assert found["scorers"][0]["unjudged"] == 2  # no captions of the tiny world
    assert main(again) == 1 and results(out) == found


@pytest.mark.parametrize("fault", ["NaN", "memory"])
def test_a_failure_of_the_moment_is_tried_again(fault, tiny, tmp_path, monkeypatch, capsys):
    """Catches NaN that is written as a black image, one full memory that ends the run, and a failure that stays."""
    render, count = Pipeline.render, []

    def fails(self, *arguments, **more):
        count.append(1)
        if fault == "memory" and len(count) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        images = render(self, *arguments, **more)
        if fault == "NaN" and len(count) == 2:
            images[0, 3, 4, 1] = float("nan")
        return images

    monkeypatch.setattr(Pipeline, "render", fails)
    out = tmp_path / "out"
    assert main(words(tiny, out, "--limit=6", "--batch=2")) == 1
    lost = ["0002"] if fault == "NaN" else ["0002", "0003"]
    found = results(out)["images"]
    assert found["made"] == 6 - len(lost) and [one["item"] for one in found["failed"]] == lost
    assert ("NaN or infinite" if fault == "NaN" else "out of memory") in found["failed"][0]["reason"]
    monkeypatch.undo()
    assert main(words(tiny, out, "--limit=6", "--batch=2")) == 0
    assert main(words(tiny, tmp_path / "sure", "--limit=6", "--batch=2")) == 0
    left = {name: content for name, content in files(out).items() if not name.startswith("failed")}
    assert left == files(tmp_path / "sure") and not list((out / "failed").iterdir())


def test_an_error_of_the_program_is_no_failure_of_an_image(pipeline, monkeypatch):
    """Catches a mistake in the code that is counted as an image that could not be made."""
    monkeypatch.setattr(Pipeline, "generate_tokens", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes")))
    task = StandInTask([Item("a", "a cat")])
    with pytest.raises(RuntimeError, match="shapes"):
        making.make(pipeline, making.Sampler(), rows_of(task, task.items, 1))


def test_every_task_opens_or_says_what_it_needs():
    """Catches a task that is listed and cannot be imported."""
    from blip3o_core.errors import Blip3oError
    from blip3o_core.evaluation.tasks.find import TASKS

    for name in TASKS:
        try:
            assert open_task(name).name == name
        except Blip3oError as error:
            assert "--data" in str(error) or "not part of this project" in str(error), name
