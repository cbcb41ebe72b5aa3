"""Which images of an earlier run a run keeps: those that it would make again, and no others."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.cli import common
from blip3o_core.cli.main import main
from blip3o_core.images.png import is_made_with, save_png

ALL = ["00000.png", "00001.png", "00002.png"]


@pytest.fixture
def source(tiny, tmp_path):
    """A checkpoint whose folder has the name of another one's."""
    return shutil.copytree(tiny, tmp_path / "run1" / "step-00001000")


@pytest.fixture
def run(source, tmp_path, capsys):
    """generate of three prompts into one folder -> the names of the images that it made."""
    (tmp_path / "prompts.txt").write_text("a red cube\na blue ball\na star\n")

    def generate(*more: str, checkpoint=source) -> list[str]:
        words = [f"--prompts={tmp_path / 'prompts.txt'}", f"--out={tmp_path / 'out'}", f"--checkpoint={checkpoint}"]
        assert main(["generate", *words, "--steps=1", "--size=16x24", "--device=cpu", *more]) == 0
        return [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]

    return generate


def other_weights(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "run2" / source.name)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    for name, tensor in tensors.items():
        if name.startswith("model.layers.") and tensor.ndim > 1:
            tensor *= 1.5
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_another_checkpoint_of_the_same_name_makes_its_own_images(run, source, tmp_path):
    """Catches images of the checkpoint before, called those of a later fine-tune whose folder has the same name."""
    assert run() == ALL and run() == []
    other = other_weights(source, tmp_path)
    assert run(checkpoint=other) == ALL and run(checkpoint=other) == []


def test_another_flow_shift_makes_its_own_images(run, source):
    """Catches images kept although the diffusion folder asks for other steps."""
    assert run() == ALL
    [folder] = [path.parent.parent for path in source.rglob("transformer/config.json")]
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"shift": 3.0}')
    assert run() == ALL


def test_another_batch_makes_its_own_images(run):
    """Catches images kept that were computed with other neighbours, which may change a bit of them."""
    assert run() == ALL
    assert run("--batch=2") == ALL[:2], "the last one is alone in its batch, as before"
    assert run("--batch=2") == [] and run("--batch=3") == ALL


def test_an_earlier_version_s_images_are_made_again(run, monkeypatch):
    """Catches images of equal settings that an earlier version of the program made otherwise."""
    assert run() == ALL
    monkeypatch.setattr(common, "IMAGE_VERSION", common.IMAGE_VERSION + 1)
    assert run() == ALL


def test_a_card_s_number_decides_nothing():
    """Catches edits or reconstructions that are made again because they run on another GPU of the machine."""
    words = type("Words", (), {"dtype": "auto"})
    for number in (0, 1):
        assert common.compute_settings(words, torch.device("cuda", number)) == {"dtype": "auto", "device": "cuda"}


def test_a_cut_file_is_no_image(tmp_path):
    """Catches an image that was cut short by a full disk or a crash and counts as made, for its settings are whole."""
    path, settings = tmp_path / "a.png", {"prompt": "a", "checkpoint": "one"}
    save_png(path, torch.rand(64, 64, 3), settings)
    assert is_made_with(path, settings) and not is_made_with(path, {**settings, "checkpoint": "two"})
    assert is_made_with(path, {**settings, "checkpoint": "two"}, ignored=("checkpoint",))
    path.write_bytes(path.read_bytes()[:-2000])
    assert not is_made_with(path, settings)
