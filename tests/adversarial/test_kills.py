"""Commands that are killed at random moments, again and again: the last run ends with the files of an undisturbed one.

The seed of the moments is printed.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from blip3o_core.cli.main import main
from tests.support import ranks
from tests.support.running import DEADLINE, alive, needs_proc, start, wait_until

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star")
LINES = 24

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")]


@pytest.fixture
def chance():
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("".join(f"a {colour} {shape}\n" for colour in COLOURS for shape in SHAPES))
    return path


@pytest.fixture(scope="module")
def edits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edits")
    for colour in COLOURS:
        Image.new("RGB", (64, 64), colour).save(folder / f"{colour}.png")
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    lines = [{"image": f"{COLOURS[k % 6]}.png", "instruction": f"make it {COLOURS[(k + 1) % 6]}"} for k in range(LINES)]
    lines = [line | ({"mask": "mask.png"} if k % 4 == 0 else {}) for k, line in enumerate(lines)]
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "list.jsonl"


def generate(source: Path, out: Path, *more: str) -> list[str]:
    return ["generate", f"--prompts={source}", f"--out={out}", "--steps=4", "--device=cpu", *more]


def edit(source: Path, out: Path) -> list[str]:
    return ["edit", f"--list={source}", f"--out={out}", "--steps=2", "--device=cpu"]


def files(folder: Path) -> dict[str, bytes]:
    """Name -> content of every image; names of scratch files start with a dot."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def kill(process: int, how: int) -> bool:
    """Send the signal `how` -> whether the process was there to get it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, how)
        return True
    return False


def wait_for_images(out: Path, count: int, ended: Callable[[], int | None]) -> None:
    """Until `out` has `count` images, or the process has ended, as `ended` says with its status."""
    wait_until(lambda: len(files(out)) >= count or ended() is not None, f"{count} images")


def kill_often(words: list[str], out: Path, sure: dict[str, bytes], kills: int, chance: random.Random) -> None:
    """Start the command and kill it soon after it has made an image or two, `kills` times; nothing is ever wrong."""
    met = 0
    for _ in range(kills):
        [running] = ranks.start(words, 1)
        wanted = min(len(files(out)) + chance.randint(0, 1), len(sure))
        wait_for_images(out, wanted, partial(getattr, running, "exitcode"))
        time.sleep(chance.uniform(0, 0.1))
        met += kill(running.pid, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        running.join(DEADLINE)
        assert files(out).items() <= sure.items()
    assert met > kills / 2
    assert main(words) == 0
    assert files(out) == sure and not list(out.glob(".*"))


@pytest.mark.parametrize("kills", [pytest.param(20, marks=pytest.mark.long)])
def test_edits_that_are_killed_end_with_the_same_files(kills, edits, chance, tmp_path):
    """Catches edits that are lost, doubled, half written, or left as scrap."""
    assert main(edit(edits, tmp_path / "sure")) == 0
    sure = files(tmp_path / "sure")
    assert len(sure) == LINES
    kill_often(edit(edits, tmp_path / "out"), tmp_path / "out", sure, kills, chance)


def has_ended(session: int) -> bool:
    return not alive(session)


@needs_proc
@pytest.mark.long
def test_two_processes_and_their_parent_killed_in_any_way(prompts, chance, tmp_path):
    """Catches images that are lost, doubled or half written, and workers that go on, whoever of the three is killed."""
    out = tmp_path / "out"
    assert main(generate(prompts, tmp_path / "sure")) == 0
    sure = files(tmp_path / "sure")
    words = generate(prompts, out, "--num-processes=2")
    for _ in range(20):
        running = start("blip3o_core", *words, cwd=tmp_path)
        wanted = min(len(files(out)) + chance.randint(0, 2), len(sure))
        wait_for_images(out, wanted, running.poll)
        time.sleep(chance.uniform(0, 1))
        workers = [process for process in alive(running.pid) if process != running.pid]
        whom = chance.choice([[running.pid], workers[:1], [running.pid, *workers]])
        for process in whom:
            kill(process, chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        if running.pid not in whom:  # Ctrl-C is nothing to a worker
            running.terminate()
        said = running.communicate(timeout=DEADLINE)[1]
        wait_until(partial(has_ended, running.pid), "the end of the workers")
        assert "Traceback" not in said, said
        assert files(out).items() <= sure.items()
    done = start("blip3o_core", *words, cwd=tmp_path)
    assert done.wait(DEADLINE) == 0 and files(out) == sure and not list(out.glob(".*"))


@pytest.mark.long
def test_two_runs_into_one_folder_end_with_the_same_files(prompts, tmp_path):
    """Catches a run that fails over, or spoils, what another writes into the same folder at the same time."""
    assert main(generate(prompts, tmp_path / "sure")) == 0
    both = [start("blip3o_core", *generate(prompts, tmp_path / "out"), cwd=tmp_path) for _ in range(2)]
    assert [running.wait(DEADLINE) for running in both] == [0, 0]
    assert files(tmp_path / "out") == files(tmp_path / "sure") and not list((tmp_path / "out").glob(".*"))


def numbers(path: Path) -> dict:
    """What a measurement of the parts found, without its times."""
    report = json.loads(path.read_text())
    for source in report["sources"].values():
        del source["seconds_in_batches"]
    return report


@pytest.mark.parametrize("kills", [pytest.param(20, marks=pytest.mark.long)])
def test_a_measurement_that_is_killed_writes_whole_files_or_none(kills, chance, tmp_path):
    """Catches half a report, and a report or a grid that differs because another run was killed."""

    def words(name: str) -> list[str]:
        here = tmp_path / name
        more = ["--from=codes", f"--json={here}.json", f"--grid={here}.png"]
        return ["recipe", "parts", "--count=8", "--seeds=1", "--steps=2", *more]

    begin = time.monotonic()
    [running] = ranks.start(words("sure"), 1)
    running.join(DEADLINE)
    assert running.exitcode == 0
    seconds, met = time.monotonic() - begin, 0
    for _ in range(kills):
        [running] = ranks.start(words("out"), 1)
        time.sleep(chance.uniform(0, seconds))
        met += kill(running.pid, chance.choice([signal.SIGKILL, signal.SIGTERM]))
        running.join(DEADLINE)
        for kind, read in ((".json", numbers), (".png", Path.read_bytes)):
            made = tmp_path / f"out{kind}"
            assert not made.exists() or read(made) == read(tmp_path / f"sure{kind}")
            made.unlink(missing_ok=True)
    assert met > kills / 2
    assert main(words("out")) == 0 and numbers(tmp_path / "out.json") == numbers(tmp_path / "sure.json")
    assert not list(tmp_path.glob(".*"))


def small_disk(place: Path, size: str) -> None:
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")


@pytest.mark.long
def test_a_full_disk_loses_nothing(prompts, edits, tmp_path, capsys):
    """Catches half an image, a traceback, and finished images that are lost, where the disk is full in the middle."""
    place = tmp_path / "disk"
    for command, source in ((generate, prompts), (edit, edits)):
        assert main(command(source, tmp_path / command.__name__)) == 0
        sure = files(tmp_path / command.__name__)
        small_disk(place, "64k")
        try:
            capsys.readouterr()
            assert main(command(source, place / "out")) == 1
            said = capsys.readouterr().err
            assert "No space left on device. Free some space" in said and "Traceback" not in said
            made = files(place / "out")
            assert 0 < len(made) < len(sure) and made.items() <= sure.items() and not list((place / "out").glob(".*"))
            subprocess.run(["mount", "-o", "remount,size=10m", place], check=True)
            assert main(command(source, place / "out")) == 0 and files(place / "out") == sure
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            assert main([*command(source, place / "new")]) == 1
            assert "Read-only file system. Choose another --out" in capsys.readouterr().err
        finally:
            subprocess.run(["umount", "-l", place], check=True)
            place.rmdir()
