"""`train` and `grpo` that are killed at random moments and continued equal a run that was left alone, bit for bit.

The log of a killed run is at every moment a beginning of the other's log, and every checkpoint with a name is whole.
"""

import contextlib
import math
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from blip3o_core.checkpoint import open_checkpoint
from tests.support.tiny_checkpoint import Sizes, make_checkpoint
from tests.support.training_world import assert_same_weights, write_config

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_forks = multiprocessing.get_context("forkserver")


@dataclass
class Kills:
    """A command that is started again and again. `preload`: what its processes have imported when they start."""

    words: list[str]
    out: Path
    wanted: bytes  # the whole log of a run that is left alone
    lines: int  # by how many the log may grow until a kill

    def run(self, count: int, seed: int) -> list[int]:
        """Kill `count` times, then let the command end -> the signals that met a running process.

        Every fourth kill comes while the command still loads, the others soon after a line of the log.
        """
        chance, met = random.Random(seed), []
        for number in range(count):
            process = self._start()
            if number % 4 == 0:
                self._wait_for_lines(process, self._logged() + 1, chance.uniform(0, 2))
            else:
                self._wait_for_lines(process, self._logged() + chance.randint(1, self.lines))
                time.sleep(chance.uniform(0, 0.02))
            if process.is_alive():
                met.append(SIGNALS[number % len(SIGNALS)])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, met[-1])
            process.join()
            self._check()
        process = self._start()
        process.join()
        assert process.exitcode == 0, (self.out.parent / "said").read_text()[-2000:]
        return met

    def _start(self):
        process = _forks.Process(target=_run, args=(self.words, str(self.out.parent / "said")))
        process.start()
        return process

    def _logged(self) -> int:
        log = self.out / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def _wait_for_lines(self, process, count: int, at_most: float = math.inf) -> None:
        end = time.monotonic() + at_most
        while process.is_alive() and self._logged() < count and time.monotonic() < end:
            time.sleep(0.005)

    def _check(self) -> None:
        log = self.out / "log.jsonl"
        assert not log.exists() or self.wanted.startswith(log.read_bytes())
        for checkpoint in self.out.glob("step-*"):
            open_checkpoint(checkpoint).validate()
            assert (checkpoint / "training" / "state.json").is_file()


def _run(words: list[str], said: str) -> None:
    from blip3o_core.cli.main import main

    torch.set_num_threads(1)
    with open(said, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = main(words)
    os._exit(status)


def kill_training(world, count: int, seed: int, steps: int) -> list[int]:
    """Kill a run of `train`, and compare it with one that is left alone."""
    _forks.set_forkserver_preload(["blip3o_core.cli.main", "blip3o_core.training.trainer"])
    settings = {"steps": steps, "save_every": 3, "ema_decay": 0.9, "warmup": 5, "weight_decay": 0.01}
    straight = world.train("straight", **settings)
    wanted = (world.folder / "straight" / "log.jsonl").read_bytes()
    out = world.folder / "killed"
    lines = max(steps // count - 3, 1)  # so that the run does not end before the last kill
    kills = Kills(["train", str(write_config(world, "killed", **settings)), "--resume"], out, wanted, lines)
    met = kills.run(count, seed)
    assert (out / "log.jsonl").read_bytes() == wanted
    assert_same_weights(out / straight.name, straight)
    assert not [*out.glob(".*"), *out.rglob("*.part")]
    assert len(list(out.glob("step-*"))) == 2
    return met


@pytest.mark.long
@pytest.mark.slow
def test_training_that_is_killed_three_times(world):
    """Catches half checkpoints, steps done twice, and a signal that ends a run between two states."""
    kill_training(world, 3, seed=1, steps=40)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_training_that_is_killed_twenty_times(seed, world):
    """As above, at many more moments: while it loads, cuts the log, writes a state, renames, deletes."""
    assert len(kill_training(world, 20, seed, steps=150)) == 20


@pytest.mark.long
def test_reinforcement_learning_that_is_killed_twenty_times(tmp_path):
    """Catches states of TRL that a kill cut short, a best checkpoint that is lost, and log lines that come twice."""
    pytest.importorskip("trl", reason="the `rl` extra is not installed")
    _forks.set_forkserver_preload(["blip3o_core.cli.main", "blip3o_core.training.grpo.trainer"])
    source = make_checkpoint(tmp_path / "model", sizes=Sizes(codes=32, grid=8, latent_side=8, prompt_limit=300))
    outs = {}
    for name in ("straight", "killed"):
        outs[name] = tmp_path / name / "run"
        outs[name].parent.mkdir()
        settings = {
            "checkpoint": str(source), "out": str(outs[name]), "tasks": "tiny",
            "prompts": 2, "group": 2, "updates": 60, "held_out": 8,
            "steps": 1, "held_out_steps": 1, "bf16": False, "save_every": 2, "held_out_every": 3,
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    alone = Kills(["grpo", str(tmp_path / "straight.yaml"), "--resume"], outs["straight"], b"", 0)
    alone.run(0, 0)
    wanted = (outs["straight"] / "log.jsonl").read_bytes()
    killed = Kills(["grpo", str(tmp_path / "killed.yaml"), "--resume"], outs["killed"], wanted, 2)
    assert len(killed.run(20, seed=0)) == 20
    assert (outs["killed"] / "log.jsonl").read_bytes() == wanted
    [best], [other] = (list(out.glob("step-*")) for out in outs.values())
    assert best.name == other.name
    assert_same_weights(best, other)
    mine, theirs = (out / "trainer" / "checkpoint-60" for out in outs.values())
    assert_same_weights(mine, theirs)
