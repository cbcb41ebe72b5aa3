"""How many CPU threads a command uses: measured to be as fast on an idle machine and much faster on a busy one."""

from types import SimpleNamespace

import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.cli import threads
from blip3o_core.cli.main import main

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def chosen(monkeypatch) -> list[int]:
    """What torch is told; nothing, where its own choice is kept."""
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return calls


def checkpoint(parameters: int):
    return SimpleNamespace(tensors={"weight": SimpleNamespace(shape=(parameters // 2, 2))})


@pytest.mark.parametrize(
    "asked, parameters, device, rows, expected",
    [
        (None, 10**7, CPU, 1, [1]),
        (None, 10**7, CPU, 8, []),
        (None, 10**7, GPU, 1, []),
        (None, 3 * 10**9, CPU, 1, []),
        (3, 10**7, CPU, 1, [3]),
        (3, 3 * 10**9, GPU, 8, [3]),
    ],
)
def test_one_thread_where_it_is_not_slower(asked, parameters, device, rows, expected, chosen):
    """Catches a large model or a batch slowed down, --threads ignored, and threads that wait for each other."""
    threads.set_threads(asked, checkpoint(parameters), device, rows)
    assert chosen == expected


def test_the_environment_decides_when_it_names_a_number(chosen, monkeypatch):
    """Catches a user's OMP_NUM_THREADS that is overwritten."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.set_threads(None, checkpoint(10), CPU, 1)
    assert chosen == []


def test_the_bundled_model_is_small_and_the_option_reaches_torch(chosen, tiny, tmp_path):
    """Catches an option that no command passes on, and a limit below the model it was measured for."""
    assert threads.parameters(open_checkpoint(BUNDLED)) < threads.SMALL
    words = [f"--checkpoint={tiny}", "--steps=1", "--prompt=a", "--size=16x24", f"--out={tmp_path / 'a.png'}"]
    for extra, expected in (([], 1), (["--threads=2"], 2)):
        assert main(["generate", *words, *extra]) == 0
        assert chosen.pop() == expected
