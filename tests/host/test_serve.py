"""`make serve` as a person uses it: what is made there is still there after Ctrl-C and at the next start."""

import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.support.paths import TOP
from tools.comfyui.client import Client
from tools.comfyui.server import free_port
from tools.demo import generate
from tools.images.nine import prompt

WORDS = [sys.executable, "-m", "tools.serve", "--no-browser"]


@contextmanager
def served(*words):
    """(address, what was printed) of a running `make serve`, which Ctrl-C ends."""
    process = subprocess.Popen([*WORDS, *map(str, words)], cwd=TOP, text=True, stdout=-1, stderr=subprocess.STDOUT)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("  log"):
                break
        said = "".join(lines)
        assert "  address        http://" in said, said
        yield said.split("address        http://")[1].split()[0], said
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and "has stopped" in rest and "Traceback" not in rest, rest
    finally:
        process.kill()
        process.wait()


def refused(*words) -> str:
    done = subprocess.run([*WORDS, *map(str, words)], cwd=TOP, text=True, capture_output=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.long
def test_an_image_outlives_the_server(tmp_path):
    """Catches a base folder that is deleted at Ctrl-C, with everything that was made in it; and a models folder, a port
    or a start of which the command does not say what is wrong."""
    base, models, port = tmp_path / "comfy", tmp_path / "models", free_port()
    (models / "blip3o").mkdir(parents=True)
    (models / "blip3o" / "mine.pth").touch()
    with served("--base", base, "--port", port, "--models", models) as (address, said):
        for word in (f"{base}/output", f"{models}/blip3o", f"{base}/server.log", "/?template=BLIP3o-1-Text"):
            assert word in said
        with Client(address) as client:
            generate(client, (prompt("a red circle left of a blue star"),))
            [loader] = client.object_info("BLIP3oImageTokenizerLoader").values()
        _, options = loader["input"]["required"]["file"]
        assert "mine.pth" in options["options"]
        assert f"port {port} " in (error := refused("--base", tmp_path / "other", "--port", port)) and "PORT=" in error
    assert len(list((base / "output").glob("*.png"))) == 1


def test_a_folder_that_is_not_there_is_named(tmp_path):
    """Catches a start without the models that were meant."""
    assert f"{tmp_path / 'none'}" in refused("--base", tmp_path / "comfy", "--models", tmp_path / "none")
