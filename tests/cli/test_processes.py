"""Many prompts and several processes: the same files as from one process, and a run that was stopped continues."""

import os
import random
import subprocess
import sys
import time

import pytest
import torch

from blip3o_core.cli import processes
from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from tests.support import ranks
from tests.support.paths import TOP

PROMPTS = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "star", "ring")]
DEADLINE = 300  # seconds until a process that makes nothing is given up


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS), encoding="utf-8")
    return path


def words(prompts, out, count: int = 1) -> list[str]:
    return ["generate", f"--prompts={prompts}", f"--out={out}", "--steps=4", "--batch=2", f"--num-processes={count}"]


def files(folder) -> dict[str, bytes]:
    """Name -> content of every image; names of temporary files start with a dot."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def wait_for_files(running, folder, count: int) -> None:
    """Until `folder` has `count` images. Fails when a process ends with an error, or all are silent for a long time."""
    deadline = time.monotonic() + DEADLINE
    while (made := len(list(folder.glob("[!.]*")))) < count:
        assert all(process.exitcode in (None, 0) for process in running)
        assert time.monotonic() < deadline, f"{made} of {count} images after {DEADLINE} seconds"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def by_one(prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "images"
    assert main(words(prompts, out)) == 0
    found = files(out)
    assert sorted(found) == [f"{k:05d}.png" for k in range(len(PROMPTS))]
    return found


@pytest.mark.long
@pytest.mark.parametrize("kills", [0, 6])
def test_two_processes_killed_at_any_time_make_the_files_of_one(kills, prompts, by_one, tmp_path):
    """Catches images that are lost, doubled, half written, or different because others were made at the same time."""
    out, seed = tmp_path / "two", random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(kills):
        running = ranks.start(words(prompts, out), 2)
        wait_for_files(running, out, min(len(files(out)) + chance.randint(1, 2), len(PROMPTS) - 1))
        time.sleep(chance.uniform(0, 0.05))
        for process in running:
            process.kill()
            process.join()
        assert files(out).items() <= by_one.items()
    # The last time through the launcher.
    command = [sys.executable, "-m", "blip3o_core", *words(prompts, out, 2)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    assert files(out) == by_one


@pytest.mark.slow
def test_existing_images_are_skipped_and_different_ones_made_again(prompts, by_one, tmp_path, capsys):
    """Catches a second run that makes everything again, and one that keeps images of other settings."""
    out = tmp_path / "again"
    out.mkdir()
    for name, data in by_one.items():
        (out / name).write_bytes(data)
    (out / "00004.png").write_bytes(by_one["00000.png"])
    assert main(words(prompts, out)) == 0 and files(out) == by_one
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(out / "00004.png"), str(out / "00005.png")]
    assert all(f"skipped {out / name}" in said.err for name in by_one if name not in ("00004.png", "00005.png"))


def test_every_item_is_one_process_s(monkeypatch):
    """Catches shares that overlap, leave something out, or give one process everything."""
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
    """Catches all processes of a machine on its first GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert processes.own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert processes.own_device(torch.device("cuda", 0)) == torch.device("cuda", 0)
    assert processes.own_device(torch.device("cpu")) == torch.device("cpu")


def test_a_process_that_fails_ends_the_others(monkeypatch):
    """Catches a launcher that waits forever, or reports success, after one process has failed."""
    monkeypatch.setattr(processes, "PROGRAM", ["-m", "json.tool"])  # fails at once on this word
    assert processes.launch(2, ["/no/such/file"]) != 0
