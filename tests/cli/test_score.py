"""`blip3o score`: numbers of rewards for image files."""

import json

import pytest
from PIL import Image

from blip3o_core.cli.main import main
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.world import World, make_scene


@pytest.fixture
def files(tmp_path):
    """A right image, a grey one, and the prompt."""
    scene = make_scene(5, "train", 0, World(), "two_object")
    Image.fromarray(rasterize(scene)).save(tmp_path / "right.png")
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    return str(tmp_path / "right.png"), str(tmp_path / "grey.png"), caption(scene, 0)


def test_images_are_scored(files, capsys):
    """Catches numbers of one image in the line of another, and a reward without a number shown as 0."""
    right, grey, prompt = files
    assert main(["score", right, grey, "--prompt", prompt, "--reward", "tiny", "--reward", "consistency"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "total", "tiny", "consistency"]
    assert first.split() == [right, "1.000", "1.000", "-"]
    assert second.split()[0] == grey and float(second.split()[1]) < 0.5
    assert main(["score", right, "--prompt", prompt, "--reward", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == [{"image": right, "total": 1.0, "rewards": {"tiny": 1.0}}]
    assert found["versions"] == {"tiny": "1 (strict 0.7)"}


def test_an_image_without_a_number_is_told(files, tmp_path, capsys):
    """Catches a dash in the table of which nobody learns why, and a command that fails for one image of several."""
    right, grey, _ = files
    (tmp_path / "judge.py").write_text("def judge(images, *_):\n    return [0.5, OSError('too dark')]\n")
    (tmp_path / "rewards.yaml").write_text(f"rewards: {{name: mine, use: '{tmp_path / 'judge.py'}:judge'}}\n")
    words = ["score", right, grey, "--prompt", "a cat", "--reward", str(tmp_path / "rewards.yaml"), "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    problem = "Reward 'mine' could not judge 1 of 2 images; image 2 with the prompt 'a cat': OSError: too dark"
    assert said.err == f"warning: {problem}\n" and json.loads(said.out)["problems"] == [problem]
    assert [image["total"] for image in json.loads(said.out)["images"]] == [0.5, None]


def test_an_edit_is_scored_by_its_reference(files, tmp_path, capsys):
    """Catches a reference or a mask that is read and not used."""
    right, grey, _ = files
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 64), 0).save(mask)
    for reference, value in ((right, "1.000"), (grey, None)):
        words = ["score", right, "--prompt", "keep it", "--reward", "consistency", f"--reference={reference}"]
        assert main([*words, f"--mask={mask}"]) == 0
        shown = capsys.readouterr().out.splitlines()[1].split()[1]
        assert shown == value if value else float(shown) < 0.9


def test_wrong_words_are_answered(files, capsys):
    """Catches a traceback for a reward that does not exist or an image that is not there."""
    right, _, prompt = files
    assert main(["score", right, "--prompt", prompt, "--reward", "tini"]) == 1
    assert "Did you mean tiny?" in capsys.readouterr().err
    assert main(["score", "missing.png", "--prompt", prompt, "--reward", "tiny"]) == 1
    assert "missing.png" in capsys.readouterr().err
