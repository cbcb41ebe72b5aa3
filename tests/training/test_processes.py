"""Runs that are divided between two processes, all started together: starting them takes longer than they do."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from blip3o_core.training.train_state import read_state
from tests.support.paths import TOP
from tests.support.tiny_checkpoint import Sizes, make_checkpoint
from tests.support.training_world import (
    ENVIRONMENT,
    World,
    assert_same_run,
    batches,
    make_edits,
    read_log,
    write_config,
)

pytestmark = pytest.mark.slow
PLAIN = {"steps": 4, "save_every": 2, "ema_decay": 0.5, "clip": 1e9, "all_text": True}
MUON = {"steps": 4, "clip": 1e9, "muon": 1.0}
MIXED = {"steps": 6, "clip": 1e9, "train": dict.fromkeys(("language", "connector", "reference_cross", "sana"), 1e-3)}


@pytest.fixture(scope="module")
def runs(tiny, training_files, tmp_path_factory):
    """Folder with the same runs by one process and by two: plain, muon, mixed, and fsdp, which resumes plain."""
    place = tmp_path_factory.mktemp("processes")
    world = World(tiny, *training_files, place)
    editor = make_checkpoint(place / "editor" / "model", edit=("use_und_image_vae",), sizes=Sizes(prompt_limit=400))
    edits = World(editor, make_edits(place / "edits"), training_files[1], place)
    mixed = {**MIXED, "data": [str(edits.data), str(training_files[0])]}
    # A process without edits in a step must not wait for another one's gradient of the reference connector.
    loader = batches(edits, batch=1, accumulation=2, data=mixed["data"])
    kinds = [[one.batch.references is not None for one in loader.microbatches(step)] for step in range(6)]
    assert [True, False] in kinds or [False, True] in kinds
    last = world.train("plain", batch=6, **PLAIN)
    shutil.copytree(place / "plain", place / "fsdp")
    shutil.rmtree(place / "fsdp" / last.name)
    jobs = [
        (write_config(world, "plain-two", batch=3, **PLAIN), [], False),
        (write_config(edits, "mixed-two", batch=1, **mixed), [], False),
        (write_config(world, "fsdp", batch=3, **PLAIN), ["--resume"], True),
    ]
    edits.train("mixed", batch=2, **mixed)
    if hasattr(torch.optim, "Muon"):
        world.train("muon", batch=6, **MUON)
        jobs.append((write_config(world, "muon-two", batch=3, **MUON), [], False))
    words = [{"words": ["train", str(config), *more], "fsdp": fsdp} for config, more, fsdp in jobs]
    (place / "jobs.json").write_text(json.dumps(words))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    program = ["--rdzv-endpoint=localhost:0", str(TOP / "tests/support/two_processes.py"), str(place / "jobs.json")]
    done = subprocess.run([*torchrun, *program], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (place / "printed.txt").write_text(done.stdout)
    return place


def test_two_processes_are_one_with_twice_the_batch(runs):
    """Catches processes that see the same rows or noise, and gradients summed over them or weighed unequally."""
    assert_same_run(runs / "plain/step-00000004", runs / "plain-two/step-00000004")


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_two_processes_take_the_same_orthogonal_steps(runs):
    """Catches Muon on one process's own gradients. It computes in bf16, so rounding shows in the fourth digit."""
    for mine, theirs in zip(read_log(runs / "muon"), read_log(runs / "muon-two"), strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)


def test_processes_whose_rows_differ_in_kind_are_one(runs):
    """Catches a process that waits for the gradient of a connector that another one's rows do not use."""
    assert_same_run(runs / "mixed/step-00000006", runs / "mixed-two/step-00000006")


def test_a_divided_model_is_the_whole_one(runs):
    """Catches weights, average or optimizer saved in pieces or resumed in the wrong ones: FSDP takes a run over."""
    counts = re.findall(r"divided: (\d+) of (\d+)", (runs / "printed.txt").read_text())
    whole, divided = [c for c in counts if c[0] == "0"], [c for c in counts if c[0] != "0"]
    assert len(divided) == 2 and all(int(some) == int(all_) > 50 for some, all_ in divided) and len(whole) >= 4
    one, two = runs / "plain/step-00000004", runs / "fsdp/step-00000004"
    assert_same_run(one, two)
    mine, theirs = (read_state(folder / "training" / "state.pt", "")["ema"] for folder in (one, two))
    assert all((theirs[name] - tensor).abs().max() < 1e-4 for name, tensor in mine.items())
