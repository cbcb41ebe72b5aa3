"""A run is resumed with the checkpoint, the data and the state that it began with, and with nothing else."""

import os
import shutil

import pytest
import torch
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.training.run_folder import RunFolder


def own_data(world, tmp_path):
    """A copy of the images that a test may damage."""
    world.data = shutil.copytree(world.data, tmp_path / "data")
    return world.data


def files_of(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


CHANGED = {
    "one more": (lambda lines: [*lines, lines[0]], "was trained on 6 images, and data has 7 now"),
    "another order": (lambda lines: lines[::-1], "other images or captions now, or has them in another order"),
    "another caption": (lambda lines: [lines[0].replace("red", "pink"), *lines[1:]], "other images or captions"),
}


@pytest.mark.parametrize("change, said", CHANGED.values(), ids=CHANGED)
def test_other_data_is_not_resumed_with(change, said, world, tmp_path):
    """Catches a run whose second half sees images in another order: the order is a function of their count."""
    data = own_data(world, tmp_path)
    world.train(steps=1)
    lines = (data / "items.jsonl").read_text().splitlines()
    (data / "items.jsonl").write_text("\n".join(change(lines)))
    before = files_of(tmp_path / "run")
    with pytest.raises(Blip3oError, match=said):
        world.train(steps=2, resume=True)
    assert files_of(tmp_path / "run") == before
    (data / "items.jsonl").write_text("\n".join(lines))
    moved = world.data = data.rename(tmp_path / "moved")
    os.utime(moved / "0.png")
    assert world.train(steps=2, resume=True).name == "step-00000002"


def test_another_image_is_not_resumed_with(world, tmp_path):
    """Catches data that is known by its names alone."""
    data = own_data(world, tmp_path)
    world.train(steps=1)
    Image.new("RGB", (80, 64), "pink").save(data / "3.png")
    with pytest.raises(Blip3oError, match="other images or captions"):
        world.train(steps=2, resume=True)


def test_another_checkpoint_is_not_resumed_with(world, tmp_path):
    """Catches frozen parts of another model under the weights that were learnt; a copy of the same one is the same."""
    from tests.support.tiny_checkpoint import make_checkpoint

    world.train(steps=1)
    first, world.checkpoint = world.checkpoint, make_checkpoint(tmp_path / "other" / "model", seed=1)
    with pytest.raises(Blip3oError, match="the checkpoint that it started from has other weights now"):
        world.train(steps=2, resume=True)
    world.checkpoint = shutil.copytree(first, tmp_path / "copy" / "model")
    assert world.train(steps=2, resume=True).name == "step-00000002"


def spoil_state(**changes):
    """Changes the trainer's state in the last checkpoint."""

    def spoil(run) -> None:
        path = RunFolder(run).last / "training" / "state.pt"
        state = torch.load(path, weights_only=True)
        name = next(iter(state["parameters"]))
        if "parameter" in changes:
            state["parameters"][name] = changes["parameter"](state["parameters"][name])
        if "moment" in changes:
            state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2, 2)
        torch.save({**state, **{key: value for key, value in changes.items() if key in state}}, path)

    return spoil


def spoil_facts(text: str):
    return lambda run: (RunFolder(run).last / "training" / "state.json").write_text(text)


SPOILT = {
    "another run": (spoil_state(parameters={}), "is absent in its parameters"),
    "a smaller tensor": (
        spoil_state(parameter=lambda old: torch.zeros(1)),
        r"is \[1\] in its parameters; this run needs",
    ),
    "NaN": (spoil_state(parameter=lambda old: old * float("nan")), "contains NaN"),
    "a step below zero": (spoil_state(step=-5), "does not hold the state of a training run"),
    "a moment of another shape": (spoil_state(moment=True), r"is \[2, 2\], not of this run"),
    "an optimizer of something else": (
        spoil_state(optimizer={"state": {}, "param_groups": []}),
        "cannot be resumed from",
    ),
    "no facts": (spoil_facts("{}"), "does not say its resume_fingerprint"),
    "no JSON": (spoil_facts(""), "cannot be read as JSON"),
    "nested facts": (spoil_facts("[" * 100_000), "nested too deeply"),
    "no state": (lambda run: (RunFolder(run).last / "training" / "state.pt").unlink(), "Cannot read .*state.pt"),
}


@pytest.mark.parametrize("spoil, said", SPOILT.values(), ids=SPOILT)
def test_a_state_of_something_else_is_refused(spoil, said, world, tmp_path):
    """Catches tensors that are spread over larger ones in silence, and tracebacks; the message says what to remove."""
    world.train(steps=1, train={"connector": 1e-3})
    spoil(tmp_path / "run")
    before = files_of(tmp_path / "run")
    with pytest.raises(Blip3oError, match=f"{said}(?s:.)*Remove .*step-00000001"):
        world.train(steps=2, resume=True, train={"connector": 1e-3})
    assert files_of(tmp_path / "run") == before
