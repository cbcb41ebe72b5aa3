"""Runs that are killed, continued and divided between processes, in processes of their own."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blip3o_core.errors import Blip3oError
from blip3o_core.training.run_folder import load_state
from tests.support.training_world import ENVIRONMENT, TOP, assert_same_run, launch, read_log, write_config


def assert_same_weights(one: Path, other: Path) -> None:
    for file in ("model.safetensors",):
        mine, theirs = load_file(one / file), load_file(other / file)
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_killed_and_resumed_is_uninterrupted(world, tmp_path):
    """Catches any state that is not saved: optimizer, average, position in the data, randomness, the log's tail.

    Killed outright at a random step; the run that goes on must equal the other to the last bit.
    """
    steps, settings = 40, {"steps": 40, "save_every": 3, "ema_decay": 0.9, "warmup": 5, "weight_decay": 0.01}
    killed_at = random.SystemRandom().randrange(4, 30)
    config = write_config(world, "killed", **settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "blip3o_core", "train", str(config)], env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    log = tmp_path / "killed" / "log.jsonl"
    while not (log.is_file() and len(log.read_text().splitlines()) >= killed_at):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(read_log(tmp_path / "killed")) < steps
    resumed = world.train("killed", resume=True, **settings)
    straight = world.train("straight", **settings)
    assert (tmp_path / "killed" / "log.jsonl").read_bytes() == (tmp_path / "straight" / "log.jsonl").read_bytes()
    assert_same_weights(resumed, straight)


def test_two_processes_are_one_with_twice_the_batch(world, tmp_path):
    """Catches processes that see the same rows or noise, and gradients summed over them or weighed unequally."""
    settings = {"steps": 4, "clip": 1e9, "all_text": True}
    launch(["-m", "blip3o_core"], write_config(world, "two", batch=3, **settings))
    one = world.train("one", batch=6, **settings)
    assert_same_run(one, tmp_path / "two" / one.name)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_two_processes_take_the_same_orthogonal_steps(world):
    """Catches Muon on one process's own gradients. It computes in bf16, so rounding shows in the fourth digit."""
    settings = {"steps": 4, "clip": 1e9, "muon": 1.0}
    launch(["-m", "blip3o_core"], write_config(world, "two", batch=3, **settings))
    world.train("one", batch=6, **settings)
    for mine, theirs in zip(world.log("one"), world.log("two"), strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)


def test_a_divided_model_is_the_whole_one(world, tmp_path):
    """Catches weights, average or optimizer saved in pieces or resumed in the wrong ones: FSDP takes a run over."""
    settings = {"steps": 4, "save_every": 2, "ema_decay": 0.5}
    one = world.train("one", batch=6, **settings)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = tmp_path / "two" / one.name
    shutil.rmtree(two)
    config = write_config(world, "two", batch=3, **settings)
    printed = launch([str(TOP / "tests" / "support" / "fsdp_on_cpu.py")], config, "--resume")
    shares = re.findall(r"divided: (\d+) of (\d+)", printed)
    assert len(shares) == 2 and all(int(some) == int(all_) > 50 for some, all_ in shares)
    assert_same_run(one, two)
    emas = [load_state(folder)["ema"] for folder in (one, two)]
    assert all((emas[1][name] - tensor).abs().max() < 1e-4 for name, tensor in emas[0].items())


def test_a_resumed_run_may_divide_its_batch_otherwise(world):
    """Catches a position counted in passes: 6 x 1 and 2 x 3 show the same pictures with the same noise."""
    world.train(steps=3, save_every=2, batch=6)
    world.train("other", steps=3, save_every=2, batch=6)
    whole = world.log()
    for name in ("step-00000003",):
        folder = world.folder / "other" / name
        folder.rename(folder.with_name("." + name))
    world.train("other", resume=True, steps=3, batch=2, accumulation=3)
    assert [entry["step"] for entry in world.log("other")] == [1, 2, 3]
    assert world.log("other")[2]["loss"] == pytest.approx(whole[2]["loss"], rel=1e-5)


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


def test_a_run_outlives_new_settings(world, tmp_path):
    """Catches a long run that cannot go on because the trainer has learnt a setting since, or bends when it is used."""
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
