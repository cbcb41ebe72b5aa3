"""The folder of an evaluation: the same files from any number of processes and after any interruption."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from blip3o_core.cli.main import main
from blip3o_core.evaluation import making, run_folder, scoring
from blip3o_core.pipeline import Pipeline
from tests.support import ranks
from tests.support.evaluation import files, words
from tests.support.paths import TOP
from tests.support.running import DEADLINE, wait_until

SMALL = ("--limit=6", "--samples=2", "--batch=5")
LARGE = ("--limit=12", "--samples=2", "--batch=3")


@pytest.fixture(scope="module")
def sure(tiny, tmp_path_factory) -> dict[str, bytes]:
    """The files of an undisturbed run of one process."""
    out = tmp_path_factory.mktemp("sure") / "out"
    assert main(words(tiny, out, *SMALL)) == 0
    return files(out)


def restored(content: dict[str, bytes], out: Path) -> Path:
    for name, data in content.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return out


# --- several processes -------------------------------------------------------------------------------------


def test_four_processes_make_the_files_of_one(sure, tiny, tmp_path, monkeypatch):
    """Catches images that depend on who makes them, and shares that overlap or leave something out: as under torchrun,
    in any order, and then once more without it, to score."""
    out, makers = tmp_path / "out", []
    save = making.save

    def noted(folder, batch, *more):
        makers.extend(os.environ["RANK"] for _ in batch)
        save(folder, batch, *more)

    monkeypatch.setattr(making, "save", noted)
    for rank in (2, 0, 3, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        assert main(words(tiny, out, *SMALL)) == 0
    assert not (out / "results.json").exists() and len(makers) == 12 and len(set(makers)) > 1
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(Pipeline, "__init__", lambda *_: pytest.fail("something was left out"))
    assert main(words(tiny, out, *SMALL)) == 0
    assert files(out) == sure


@pytest.mark.long
def test_num_processes_makes_the_files_of_one(sure, tiny, tmp_path):
    """Catches a launcher whose processes make other files, and a parent that does not score."""
    command = [sys.executable, "-m", "blip3o_core", *words(tiny, tmp_path / "out", *SMALL, "--num-processes=4")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "out") == sure and str(tmp_path / "out" / "results.json") in done.stdout


def has_files(out: Path, count: int, running) -> bool:
    """Whether there are so many, or the process has ended."""
    return len(list(out.rglob("[!.]*.*"))) >= count or running.exitcode is not None


# --- interruptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before the first image", "between images", "after the images", "between scores"])
def test_a_run_that_is_cut_and_resumed_ends_with_the_files_of_one(moment, sure, tiny, tmp_path, monkeypatch):
    """Catches images and scores that are lost, doubled or in another order after an interruption, wherever it falls."""
    out, count = tmp_path / "out", {"before the first image": 0, "between images": 2, "between scores": 1}.get(moment)
    place, name = {"between scores": (scoring, "append_lines"), "after the images": (scoring, "score")}.get(
        moment, (making, "save")
    )
    whole, calls = getattr(place, name), []
    monkeypatch.setattr(scoring, "TOGETHER", 4)

    def cut(*arguments):
        calls.append(arguments)
        if len(calls) > (count or 0):
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(place, name, cut)
    assert main(words(tiny, out, *SMALL)) == 130
    assert files(out).items() <= sure.items() or moment == "between scores"
    monkeypatch.setattr(place, name, whole)
    if moment == "between scores":
        with open(out / "scores" / "judge.jsonl", "a") as file:
            file.write('{"item": "0005", "sam')  # what a power cut leaves
    (out / "images").mkdir(exist_ok=True)
    (out / "images" / ".0000-0.png.0123abcd.part").write_bytes(b"half an image")
    assert main(words(tiny, out, *SMALL)) == 0
    assert files(out) == sure


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("kills", [pytest.param(1, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.long)])
def test_a_run_that_is_killed_at_random_ends_with_the_same_files(kills, tiny, tmp_path):
    """Catches files that a kill leaves half written and that the next run believes. The seed is printed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance, out = random.Random(seed), tmp_path / "out"
    assert main(words(tiny, tmp_path / "sure", *LARGE)) == 0
    sure = files(tmp_path / "sure")
    met = 0
    for _ in range(kills):
        [running] = ranks.start(words(tiny, out, *LARGE), 1)
        wanted = min(len(files(out)) + chance.randint(1, 6), len(sure))
        wait_until(partial(has_files, out, wanted, running), "files")
        time.sleep(chance.uniform(0, 0.2))
        if running.exitcode is None:
            os.kill(running.pid, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            met += 1
        running.join(DEADLINE)
        assert all(sure.get(name) == content for name, content in files(out).items() if name.endswith(".png")
                   and "/." not in name)  # fmt: skip
        if (out / "results.json").exists():  # it was faster: begin again
            assert files(out) == sure
            shutil.rmtree(out)
    assert met >= kills / 2
    assert main(words(tiny, out, *LARGE)) == 0 and files(out) == sure


def test_two_runs_do_not_score_in_one_folder(sure, tiny, tmp_path, capsys):
    """Catches a file of scores that two processes write at once."""
    out = restored(sure, tmp_path / "out")
    with run_folder.RunFolder(out).held():
        assert main(words(tiny, out, *SMALL)) == 1
    assert "Another `blip3o evaluate` works in" in capsys.readouterr().err and files(out) == sure


@pytest.mark.slow
def test_a_full_disk_loses_nothing(sure, tiny, tmp_path, capsys):
    """Catches half an image, a traceback, and finished images that are lost, where the disk is full in the middle."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        assert main(words(tiny, place / "out", *SMALL)) == 1
        said = capsys.readouterr().err
        assert "No space left on device. Free some space" in said and "Traceback" not in said
        assert files(place / "out").items() <= sure.items()
        subprocess.run(["mount", "-o", "remount,size=10m", place], check=True)
        assert main(words(tiny, place / "out", *SMALL)) == 0 and files(place / "out") == sure
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        assert main(words(tiny, place / "new", *SMALL)) == 1
        assert "Read-only file system. Choose another --out" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# --- folders of other runs ---------------------------------------------------------------------------------

REFUSED = {
    "--steps=2": "  settings.steps: 1 in the folder, 2 now",
    "--guidance=1": "  settings.guidance: 2.0 in the folder, 1.0 now",
    "--batch=4": "  settings.batch: 5 in the folder, 4 now",
    "--samples=3": "  settings.samples: 2 in the folder, 3 now",
    "--dtype=bf16": "  settings.dtype: auto in the folder, bf16 now",
    "--size=128x64": "  settings.size: nothing in the folder, 128x64 now",
    "--option=any_phrasing=yes": "  item 0001: it asks for something else now",
    "--limit=7": "  item 0006: it is new",
    "--limit=5": "  item 0005: it is not asked any more",
}


@pytest.mark.parametrize("option", REFUSED)
def test_a_folder_of_a_different_run_is_refused(option, sure, tiny, tmp_path, capsys):
    """Catches images of different settings or prompts that are counted together."""
    out = restored(sure, tmp_path / "out")
    assert main(words(tiny, out, *SMALL, option)) == 1
    said = capsys.readouterr().err
    assert "belongs to a different run:\n" in said and REFUSED[option] in said and "Choose another --out" in said
    assert files(out) == sure


def test_another_checkpoint_is_refused_and_a_copy_is_not(sure, copy, tmp_path, capsys):
    """Catches weights that changed under the same name, and a checkpoint that may not be moved."""
    out = restored(sure, tmp_path / "out")
    moved = copy.folder.rename(copy.folder.with_name("renamed"))
    assert main(words(moved, out, *SMALL)) == 0 and files(out) == sure
    moved.rename(copy.folder)
    copy.edit_tensors(lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    assert main(words(copy.folder, out, *SMALL)) == 1
    assert "  checkpoint.identity: " in capsys.readouterr().err and files(out) == sure


def test_other_versions_make_no_images_but_may_score(sure, tiny, tmp_path, capsys, monkeypatch):
    """Catches images of two releases of torch in one number, and a folder that cannot be scored after an update."""
    content = dict(sure)
    run = json.loads(content["run.json"])
    run["versions"]["torch"] = "1.0"
    content["run.json"] = json.dumps(run).encode()
    out = restored(content, tmp_path / "out")
    assert main(words(tiny, out, *SMALL, "--reward=consistency")) == 0
    assert json.loads((out / "results.json").read_text())["run"]["versions"]["torch"] == "1.0"
    (out / "images" / "0003-1.png").unlink()
    assert main(words(tiny, out, *SMALL)) == 1
    assert "  versions.torch: 1.0 in the folder, " in capsys.readouterr().err


def test_a_folder_with_other_files_is_refused(tiny, tmp_path, capsys):
    """Catches images that are written among files of somebody."""
    (tmp_path / "letter.txt").write_text("dear")
    assert main(words(tiny, tmp_path, *SMALL)) == 1
    assert "has other files in it, such as letter.txt" in capsys.readouterr().err
    assert list(files(tmp_path)) == ["letter.txt"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "x"}', '{"format": "blip3o evaluation", "version": 9}'])
def test_a_damaged_run_file_is_a_sentence(content, sure, tiny, tmp_path, capsys):
    """Catches a traceback, and a folder that is believed to be new because its run.json cannot be read."""
    out = restored({**sure, "run.json": content.encode()}, tmp_path / "out")
    assert main(words(tiny, out, *SMALL)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "run.json" in said and "--out" in said


@pytest.mark.parametrize("content", [None, b'{"id": "0000"'])
def test_a_list_of_items_that_is_lost_or_damaged_is_written_again(content, sure, tiny, tmp_path):
    """Catches a finished run that can never be compared again."""
    out = restored(sure, tmp_path / "out")
    (out / "items.jsonl").unlink() if content is None else (out / "items.jsonl").write_bytes(content)
    assert main(words(tiny, out, *SMALL)) == 0 and files(out) == sure


def test_a_damaged_or_foreign_image_is_made_again(sure, tiny, tmp_path):
    """Catches half an image, and one of other settings, that count as made."""
    content = dict(sure)
    content["images/0001-0.png"] = sure["images/0001-0.png"][:-60]
    content["images/0004-1.png"] = sure["images/0000-0.png"]
    out = restored(content, tmp_path / "out")
    assert main(words(tiny, out, *SMALL)) == 0 and files(out) == sure
