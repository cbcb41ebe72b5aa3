"""How a command ends early: by signals, with its workers, and when nobody reads what it prints."""

import io
import os
import signal
import sys
import time

import pytest

from blip3o_core.cli import ending
from blip3o_core.cli.main import main
from blip3o_core.pipeline import Pipeline
from tests.support.running import DEADLINE, alive, needs_proc, start, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture
def command(tmp_path):
    """A running command whose two workers work, see `idle_command`."""
    running = start("tests.support.idle_command", cwd=tmp_path)
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.worker"))) == 2 or running.poll() is not None, "two workers")
        yield running
    finally:
        for process in alive(running.pid):
            os.kill(process, signal.SIGKILL)


@needs_proc
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_workers_end_with_the_process_that_started_them(number, status, command):
    """Catches workers that go on for hours, and write, after their parent was ended in any way."""
    command.send_signal(number)
    said = command.communicate(timeout=DEADLINE)[1]
    assert command.returncode == status and said == "Cancelled.\n" * (status > 0)
    wait_until(lambda: not alive(command.pid), "the end of the workers")


@needs_proc
def test_ctrl_c_is_answered_once(command):
    """Catches a traceback, or the same line, from every process of the terminal."""
    os.killpg(command.pid, signal.SIGINT)
    said = command.communicate(timeout=DEADLINE)[1]
    assert command.returncode == 130 and said == "Cancelled.\n" and not alive(command.pid)


@needs_proc
def test_a_worker_that_is_killed_is_named(command, tmp_path):
    """Catches a run that ends with a strange status and no word when the system kills a worker for its memory."""
    os.kill(int(next(tmp_path.glob("*.worker")).stem), signal.SIGKILL)
    said = command.communicate(timeout=DEADLINE)[1]
    assert command.returncode == 1 and "of 2 was ended by SIGKILL" in said and "Traceback" not in said
    assert not alive(command.pid)


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command(tmp_path):
    """Catches a traceback behind `| head -1`."""
    (tmp_path / "prompts.txt").write_text("a red circle\n" * 100)
    words = ["generate", "--prompts=prompts.txt", "--out=out", "--steps=1"]
    running = start("blip3o_core", *words, cwd=tmp_path)
    assert running.stdout.readline().endswith("00000.png\n")
    running.stdout.close()
    said = running.stderr.read()
    assert running.wait(DEADLINE) == 141 and "Traceback" not in said and "Exception" not in said


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_cancels_as_ctrl_c_does(name, tiny, tmp_path, monkeypatch, capsys):
    """Catches a scratch file that a signal leaves, a signal without a word, and a handler that stays."""
    number = getattr(signal, name)
    monkeypatch.setattr(Pipeline, "render", lambda *_, **__: os.kill(os.getpid(), number) or time.sleep(60))
    before = signal.getsignal(number)
    words = [f"--checkpoint={tiny}", "--prompt=a", f"--out={tmp_path / 'a.png'}", "--steps=1", "--device=cpu"]
    assert main(["generate", *words]) == 128 + number
    assert "Cancelled. Nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()) and signal.getsignal(number) == before


def test_an_ignored_signal_stays_ignored():
    """Catches a run under nohup that ends with its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending.signals_raise():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(28, "No space left on device", "/there/x"), "/there/x: No space left on device"),
        (MemoryError(), "not enough memory: MemoryError"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    ],
    ids=["disk", "memory", "torch's memory"],
)
def test_what_the_system_refuses_is_one_sentence(error, said, tiny, tmp_path, monkeypatch, capsys):
    """Catches a traceback for a full disk or a full memory at a place that nobody thought of."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Pipeline, "render", fail)
    words = [f"--checkpoint={tiny}", "--prompt=a", f"--out={tmp_path / 'a.png'}", "--steps=1", "--device=cpu"]
    assert main(["generate", *words]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line


def test_a_fault_of_the_program_stays_a_traceback(tiny, tmp_path, monkeypatch):
    """Catches a fault of ours that is called a lack of memory."""
    monkeypatch.setattr(Pipeline, "render", lambda *_, **__: [][1])
    with pytest.raises(IndexError):
        main(["generate", f"--checkpoint={tiny}", "--prompt=a", f"--out={tmp_path / 'a.png'}", "--device=cpu"])


def test_a_name_outside_the_output_s_encoding_ends_nothing(tmp_path, monkeypatch):
    """Catches images that are not made because the name of their folder cannot be printed."""
    (tmp_path / "p.txt").write_text("a red circle\na blue star\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed := io.BytesIO(), encoding="cp1252"))
    assert main(["generate", "--prompts=p.txt", "--steps=1", "--out=图片"]) == 0
    sys.stdout.flush()
    assert len(list((tmp_path / "图片").glob("*.png"))) == 2 and rb"\u56fe\u7247" in printed.getvalue()
