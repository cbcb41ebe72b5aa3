"""`blip3o recipe`: which stages run where, and what it writes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from blip3o_core.cli import recipe
from blip3o_core.cli.main import main
from blip3o_core.tiny.recipe import quick, stages


@pytest.fixture
def ran(monkeypatch) -> list:
    """(stage, folder, share) of every stage that would be trained."""
    calls = []

    def run(stage, settings):
        calls.append((stage, settings.out, settings.share))
        return {"mean": 0.5}

    monkeypatch.setattr(stages, "run", run)
    return calls


def test_stages_run_in_the_order_asked_for(ran, tmp_path, capsys):
    """Catches a stage that is left out, a folder that is ignored, and steps that are not shortened."""
    assert main(["recipe", "tiny", "joint", "grpo", f"--out={tmp_path}", "--share=0.5"]) == 0
    assert ran == [("joint", tmp_path, 0.5), ("grpo", tmp_path, 0.5)]
    assert capsys.readouterr().out == "joint: mean 0.500\ngrpo: mean 0.500\n"
    assert main(["recipe", "tiny"]) == 0
    assert ran[2:] == [(stage, Path("runs/tiny"), 1.0) for stage in recipe.STAGES]


def test_the_device_reaches_the_stages(monkeypatch, tmp_path):
    """Catches a card that is asked for and not used."""
    devices = []
    monkeypatch.setattr(stages, "run", lambda stage, recipe: devices.append(recipe.device) or {})
    monkeypatch.setattr(recipe, "device_of", torch.device)
    for device in ("cpu", "cuda"):
        assert main(["recipe", "tiny", "language", f"--out={tmp_path}", f"--device={device}"]) == 0
    assert devices == ["cpu", "cuda"]


def test_a_stage_is_trained_for_longer(monkeypatch, tmp_path):
    """Catches steps that are asked for and not made."""
    given = []
    monkeypatch.setattr(stages, "run", lambda stage, recipe: given.append((stage, recipe.longer)) or {})
    assert main(["recipe", "tiny", "joint", "--longer=200", f"--out={tmp_path}", "--device=cpu"]) == 0
    assert given == [("joint", 200)]


MISTAKES = (
    ["painting"],
    ["--quick", "joint"],
    ["--share=0"],
    ["instruct"],
    ["--device=mps"],
    ["--quick", "--device=cuda"],
    ["--quick", "--start=folder"],
    ["--longer=100"],
    ["joint", "latents", "--longer=100"],
    ["data", "--longer=100"],
    ["joint", "--longer=0"],
)


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_said_before_anything_is_trained(words, ran, capsys):
    """Catches hours of training of the wrong thing."""
    assert main(["recipe", "tiny", *words]) == 2 and not ran
    assert capsys.readouterr().err.startswith("error: ")


def test_a_start_that_is_not_there_is_said_before_anything_is_trained(ran, tmp_path, capsys):
    """Catches a wrong folder that is found out when the stages before `language` have run for hours."""
    assert main(["recipe", "tiny", f"--start={tmp_path / 'nowhere'}"]) != 0 and not ran
    assert "nowhere" in capsys.readouterr().err


def test_a_cancelled_quick_run_says_what_to_delete(monkeypatch, tmp_path, capsys):
    """Catches the promise that a quick run continues, which it does not."""

    def stop(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(quick, "run", stop)
    assert main(["recipe", "tiny", "--quick", f"--out={tmp_path / 'run'}"]) == 130
    assert f"Delete {tmp_path / 'run'}" in capsys.readouterr().err


def test_a_sheet_is_written(tmp_path, capsys):
    """Catches a sheet that lands elsewhere, or is empty."""
    out = tmp_path / "world.png"
    assert main(["recipe", "sheet", f"--out={out}", "--what=edits"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as page:
        assert page.width == 6 * 200
