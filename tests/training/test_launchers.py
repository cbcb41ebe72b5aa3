"""`accelerate launch` starts processes that share a run of reinforcement learning. torchrun: see test_grpo_lora.py."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.support import rl
from tests.support.paths import TOP
from tests.support.training_world import ENVIRONMENT

pytestmark = pytest.mark.long
JUDGE = """
import os, pathlib

def bright(images, *_):
    with open(pathlib.Path(__file__).with_name("ranks.txt"), "a") as file:
        file.write(os.environ.get("RANK", "alone") + "\\n")
    return [100 * float(image.mean()) for image in images]
"""


@pytest.mark.parametrize("command", ["grpo", "diffusion-rl"])
def test_two_processes_of_accelerate_are_one(command, tmp_path):
    """Catches a launcher that starts one process in place of two, and processes that make the same images."""
    if command == "grpo":
        pytest.importorskip("trl", reason="the `rl` extra is not installed")
    (tmp_path / "judge.py").write_text(JUDGE)
    rewards = [{"name": "bright", "use": f"{tmp_path / 'judge.py'}:bright"}]
    source = rl.small_checkpoint(tmp_path / "model")
    settings = {**rl.SMALL, "checkpoint": str(source), "held_out": 5, "bf16": False, "rewards": rewards, "updates": 2}
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0", "-m"]
    logs, ranks = [], tmp_path / "ranks.txt"
    for name, before, seen in (("alone", [], {"alone"}), ("both", launch, {"0", "1"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**settings, "out": str(tmp_path / name)}))
        words = [sys.executable, "-m", *before, "blip3o_core", command, str(tmp_path / f"{name}.yaml")]
        done = subprocess.run(words, env=ENVIRONMENT, cwd=TOP, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(ranks.read_text().split()) == seen
        ranks.unlink()
        logs.append([json.loads(line) for line in (tmp_path / name / "log.jsonl").open()])
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        # GRPO's loss is zero but for rounding; the gradient is not.
        numbers = [name for name, value in mine.items() if isinstance(value, float) and name != "loss"]
        assert all(theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5) for name in numbers)
