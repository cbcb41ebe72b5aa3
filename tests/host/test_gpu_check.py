"""The card's stage that starts a real ComfyUI, on the CPU and with a tiny model."""

import json
import subprocess
import sys

import pytest

from tests.support.device import needs_cpu
from tests.support.paths import TOP

KEYS = {"servers", "runs", "stops", "soak", "same_latents", "growth_in_second_half"}


@needs_cpu
@pytest.mark.long
@pytest.mark.slow
def test_the_host_stage_runs_on_the_cpu(tmp_path):
    """Catches a graph, a server or a checkpoint that changed under the stage, which nobody would see until the next
    time there is a card."""
    command = [sys.executable, "-m", "tools.gpu_check", "run", "--cpu-dry-run", f"--out={tmp_path}", "--stages=host",
               f"--carried={tmp_path / 'nothing'}"]  # fmt: skip
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=900)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["stages"]["host"]
    assert found["status"] == "ok" and done.returncode == 0, done.stdout[-5000:]
    assert KEYS <= found.keys() and found["same_latents"]
    assert [row["status"] for row in found["runs"]].count("interrupted") == 1
