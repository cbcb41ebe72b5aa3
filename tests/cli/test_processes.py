"""Many prompts by several processes: the same files as by one, and what was cut off goes on."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from blip3o_core.cli import processes
from blip3o_core.errors import Blip3oError
from tools.environment import TOP

PROMPTS = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "star", "ring")]
KILLS = 4


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS), encoding="utf-8")
    return path


def start(prompts, out, count: int, batch: int = 2) -> subprocess.Popen:
    words = ["generate", "--prompts", str(prompts), "--out", str(out), "--steps", "4", "--batch", str(batch)]
    command = [sys.executable, "-m", "blip3o_core", *words, "--num-processes", str(count)]
    # One thread each: how a sum is split among threads may change its last bit.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=TOP, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def by_one(prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "pictures"
    process = start(prompts, out, 1)
    assert process.wait(300) == 0, process.stderr.read()
    found = files(out)
    assert sorted(found) == [f"{k:05d}.png" for k in range(len(PROMPTS))]
    return found


def test_two_processes_killed_at_any_time_make_the_files_of_one(prompts, by_one, tmp_path):
    """Pictures that are lost, doubled, half written, or different because others drew beside them."""
    out, dice = tmp_path / "two", random.Random(0)
    for _ in range(KILLS):
        process = start(prompts, out, 2)
        time.sleep(dice.uniform(2, 8))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        whole = {name: data for name, data in (files(out) if out.is_dir() else {}).items() if not name.startswith(".")}
        assert all(by_one[name] == data for name, data in whole.items())
    process = start(prompts, out, 2)
    assert process.wait(300) == 0, process.stderr.read()
    made = files(out)
    assert {name: data for name, data in made.items() if not name.startswith(".")} == by_one


def test_what_is_there_is_not_drawn_again_and_what_differs_is(prompts, by_one, tmp_path):
    """A second run that draws everything anew, or one that keeps pictures of other settings."""
    out = tmp_path / "again"
    out.mkdir()
    for name, data in by_one.items():
        (out / name).write_bytes(data)
    (out / "00004.png").write_bytes(by_one["00000.png"])
    process = start(prompts, out, 1)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and files(out) == by_one
    assert [line.rpartition("/")[2] for line in printed.splitlines()] == ["00004.png", "00005.png"]


def test_every_item_is_one_process_s(monkeypatch):
    """Shares that overlap, leave something out, or give one process everything."""
    owners = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        owners.append({item for item in range(300) if processes.is_mine(f"{item}")})
    assert set.union(*owners) == set(range(300)) and sum(map(len, owners)) == 300 and min(map(len, owners)) > 60
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(Blip3oError, match="RANK"):
        processes.is_mine("x")


def test_each_process_takes_its_own_gpu(monkeypatch):
    """All processes of a machine on its first GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert processes.own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert processes.own_device(torch.device("cuda", 0)) == torch.device("cuda", 0)
    assert processes.own_device(torch.device("cpu")) == torch.device("cpu")


def test_a_process_that_fails_ends_the_others(monkeypatch):
    """A launcher that waits forever, or reports success, after one process has failed."""
    monkeypatch.setattr(processes, "__package__", "json.tool")  # fails at once on this word
    assert processes.launch(2, ["/no/such/file"]) != 0
