"""Runs that are killed and continued: the log and the weights are those of a run that was not interrupted."""

import json
import os
import signal

import pytest
import torch

from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.training.run_folder import RunFolder
from tests.support import ranks
from tests.support.training_world import assert_same_weights, write_config


def killed(config: str, step: int) -> None:
    """`train`, which kills its own process outright behind this line of the log and half of the next one."""
    append_log = RunFolder.append_log

    def append_and_die(self, entry):
        append_log(self, entry)
        if entry["step"] == step:
            with open(self.log, "a") as log:
                log.write('{"step": 9, "lo')
            os.kill(os.getpid(), signal.SIGKILL)

    RunFolder.append_log = append_and_die
    torch.set_num_threads(1)
    main(["train", config])


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(world, tmp_path):
    """Catches any state that is not saved: optimizer, average, position in the data, randomness, the log's tail.

    Killed at step 5, two steps behind its last checkpoint; the resumed run must equal the other to the last bit.
    """
    settings = {"steps": 6, "save_every": 3, "ema_decay": 0.9, "warmup": 5, "weight_decay": 0.01}
    config = write_config(world, "killed", **settings)
    process = ranks.context.Process(target=killed, args=(str(config), 5))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 6 and sorted((tmp_path / "killed").glob("step-*"))[-1].name == "step-00000003"
    resumed = world.train("killed", resume=True, **settings)
    straight = world.train("straight", **settings)
    assert (tmp_path / "killed" / "log.jsonl").read_bytes() == (tmp_path / "straight" / "log.jsonl").read_bytes()
    assert_same_weights(resumed, straight)


@pytest.mark.slow
def test_a_resumed_run_may_divide_its_batch_otherwise(world):
    """Catches a position counted in microbatches: 6 x 1 and 2 x 3 show the same images with the same noise."""
    last = world.train(steps=3, save_every=2, batch=6)
    whole = world.log()
    last.rename(last.with_name("." + last.name))
    world.train(resume=True, steps=3, batch=2, accumulation=3)
    assert [entry["step"] for entry in world.log()] == [1, 2, 3]
    assert world.log()[2]["loss"] == pytest.approx(whole[2]["loss"], rel=1e-5)


@pytest.mark.slow
def test_leftovers_of_a_killed_run_are_cleaned(world, tmp_path):
    """Catches a half-written checkpoint that is resumed from, half a log line, and checkpoints kept for ever."""
    world.train(steps=4, save_every=1, keep=2)
    run = tmp_path / "run"
    assert sorted(path.name for path in run.glob("step-*")) == ["step-00000003", "step-00000004"]
    assert not list(run.glob(".*"))
    whole = (run / "log.jsonl").read_text()
    (run / ".step-00000005" / "training").mkdir(parents=True)
    (run / "step-00000006").mkdir()
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    assert world.train(resume=True, steps=4).name == "step-00000004"
    assert (run / "log.jsonl").read_text() == whole
    assert not (run / ".step-00000005").exists()


def test_resuming_what_has_nothing_to_resume(world):
    """Catches --resume that fails on a first start, which a restarted job script cannot avoid."""
    assert world.train(resume=True, steps=1).name == "step-00000001"


def test_a_run_is_not_continued_by_mistake(world, tmp_path):
    """Catches a second run over the first one's files, and training that continues with other settings."""
    world.train(steps=2)
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    with pytest.raises(Blip3oError, match="--resume"):
        world.train(steps=2)
    for changes, shown in (
        ({"seed": 1}, "seed 0"),
        ({"batch": 3}, "images per step 4"),
        ({"clip": 2}, "clip 1.0"),
        ({"train": {"sana": 1e-3}}, "train"),
        ({"lora": {"rank": 2}}, "lora None"),
    ):
        with pytest.raises(Blip3oError, match=shown):
            world.train(resume=True, **{"steps": 3, **changes})
    (tmp_path / "run" / "step-00000002" / "training" / "state.pt").write_bytes(b"broken")
    with pytest.raises(Blip3oError, match="state.pt"):
        world.train(resume=True, steps=3)
    after = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    changed = {path.name for path in before if before[path] != after.get(path)}
    assert changed == {"state.pt"}


@pytest.mark.slow
def test_a_run_outlives_new_settings(world, tmp_path):
    """Catches a long run that cannot resume because a setting was added since, or that changes when it is used."""
    world.train(steps=1)
    path = tmp_path / "run" / "step-00000001" / "training" / "state.json"
    state = json.loads(path.read_text())
    del state["resume_fingerprint"]["zero_null"], state["resume_fingerprint"]["muon"]
    path.write_text(json.dumps(state))
    with pytest.raises(Blip3oError, match="zero_null None, but zero_null is True now"):
        world.train(resume=True, steps=2, zero_null=True)
    assert world.train(resume=True, steps=2).name == "step-00000002"


def test_mistakes_leave_no_run_behind(world, tmp_path):
    """Catches an output folder made before it is known that there is something to train on."""
    world.data = tmp_path / "absent"
    with pytest.raises(Blip3oError, match="absent"):
        world.train()
    assert not (tmp_path / "run").exists()
