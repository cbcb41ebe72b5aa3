"""`blip3o reconstruct`: an image to image tokens and back."""

import json

import pytest
import torch

from blip3o_core.cli.main import main
from blip3o_core.images.png import read_settings
from tests.support.pictures import files, made_again, pixels


@pytest.fixture
def reconstruct(editor, place):
    def run(*arguments, model=editor) -> int:
        words = [str(argument).replace("{here}", str(place)) for argument in arguments]
        return main(["reconstruct", f"--checkpoint={model}", "--device=cpu", *words])

    return run


AGAIN = ("--image={here}/a.png", "--out={here}/out.png")


@pytest.mark.parametrize(
    "extra, shape",
    [
        (["--steps=2"], (48, 72)), (["--steps=2", "--size=24x16"], (16, 24)), (["--steps=3", "--seed=4"], (48, 72)),
        (["--guidance=4", "--steps=2"], (48, 72)), (["--from=autoencoder"], (48, 72)),
        (["--from=autoencoder", "--dtype=bf16"], (48, 72)),
    ],
)  # fmt: skip
def test_a_picture_comes_back_and_can_be_made_again(extra, shape, reconstruct, editor, place, capsys):
    """Catches a wrong size, and a setting that decides the picture and is not stored."""
    assert reconstruct(*AGAIN, *extra) == 0
    drawn = pixels(place / "out.png")
    assert capsys.readouterr().out == f"{place / 'out.png'}\n" and tuple(drawn.shape) == (*shape, 3)
    assert torch.equal(made_again(place / "out.png", editor, {"IMAGE": place / "a.png"}), drawn)
    assert str(place) not in json.dumps(read_settings(place / "out.png"))


@pytest.mark.slow
def test_the_bundled_model_gives_a_picture_back(place):
    """Catches codes of the wrong picture, and a reconstruction that looks at the original."""
    red, green = place / "red.png", place / "green.png"
    for path, prompt in ((red, "a red circle"), (green, "a green star")):
        assert main(["generate", f"--prompt={prompt}", f"--out={path}", "--steps=10"]) == 0
    errors = {}
    for way in ("codes", "autoencoder"):
        out = place / f"{way}.png"
        assert main(["reconstruct", f"--image={red}", f"--out={out}", f"--from={way}", "--steps=10"]) == 0
        errors[way] = (pixels(out).float() - pixels(red).float()).abs().mean()
    other = (pixels(green).float() - pixels(red).float()).abs().mean()
    assert max(errors.values()) < other / 4, (errors, other)


RECONSTRUCT_MISTAKES = {
    "missing file": (["--image={here}/absent.png"], 1, "absent.png"),
    "text": (["--image={here}/text.png"], 1, "text.png"),
    "other format": (["--out={here}/a.jpg"], 2, ".png"),
    "over its own image": (["--out={here}/a.png"], 1, "overwritten"),
    "size of the autoencoder": (["--from=autoencoder", "--size=64x64"], 2, "--size"),
    "size not a multiple": (["--size=65x64"], 1, "64x64"),
    "no steps": (["--steps=0"], 2, "steps"),
    "absent checkpoint": (["--checkpoint=/nowhere/model"], 1, "/nowhere/model"),
    "too long": (["--image={here}/long.png"], 1, "at most 8 times"),
}


@pytest.mark.parametrize("arguments, status, shown", RECONSTRUCT_MISTAKES.values(), ids=RECONSTRUCT_MISTAKES)
def test_a_mistake_in_reconstruct_is_said(arguments, status, shown, reconstruct, faulty, capsys, monkeypatch):
    """Catches a traceback, loading before a refusal, and traces."""
    from blip3o_core import pipeline

    monkeypatch.setattr(pipeline.Pipeline, "__init__", lambda *_: pytest.fail("weights were loaded"))
    before = files(faulty)
    assert reconstruct(*AGAIN, *arguments) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and shown in said.err
    assert files(faulty) == before
