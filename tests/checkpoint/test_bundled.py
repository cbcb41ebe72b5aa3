"""The bundled tiny model is there, whole and small, ships with the library, and draws what it is told."""

import fnmatch

import pytest
import tomllib
import torch

from blip3o_core.checkpoint import AUTOENCODER, IMAGE_TOKENIZER, LANGUAGE, TRANSFORMER
from blip3o_core.checkpoint.bundled import BUNDLED, resolve_checkpoint
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny.evaluation import SIDES, Settings, edition_of, evaluate
from tests.support.odd_prompts import ODD_PROMPTS
from tools.environment import TOP

LIMIT = 30e6  # bytes


@pytest.fixture(scope="module")
def bundled() -> Pipeline:
    return Pipeline.load(resolve_checkpoint(None), dtype=torch.float32)


def files() -> list:
    return [path for path in resolve_checkpoint(None).rglob("*") if path.is_file()]


def test_it_is_whole_and_small(bundled):
    """Catches a part that was not assembled, a stray file of the training, and weights that outgrow the repository."""
    assert set(bundled.checkpoint.parts) == {LANGUAGE, TRANSFORMER, AUTOENCODER, IMAGE_TOKENIZER}
    assert bundled.checkpoint.diffusion_folder == BUNDLED / "diffusion"
    assert bundled.checkpoint.trained_side in SIDES.values()
    assert {path.suffix for path in files()} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files()) <= LIMIT


def test_it_ships_with_the_library_and_the_pack():
    """Catches an installation that has the code and not the weights."""
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["blip3o_core.tiny"]
    shipped = {path for pattern in patterns for path in BUNDLED.parent.glob(pattern)}
    assert set(files()) <= shipped
    ignored = (TOP / ".comfyignore").read_text().split()
    for path in files():
        name = path.relative_to(TOP).as_posix()
        assert not [line for line in ignored if name.startswith(line) or fnmatch.fnmatch(name, line)], name


@pytest.mark.parametrize("prompt", ODD_PROMPTS.values(), ids=ODD_PROMPTS)
def test_odd_prompts_give_a_picture(prompt, bundled):
    """Catches an error where words are unknown, contradict themselves or fill the prompt to its limit."""
    picture = bundled.render(bundled.generate_tokens([prompt], [0]), [0], steps=2)
    side = bundled.checkpoint.trained_side
    assert picture.shape == (1, side, side, 3) and bool(torch.isfinite(picture).all())


@pytest.mark.slow
def test_it_draws_what_it_is_told(bundled):
    """Catches weights that do not belong to this code. The floor: 0.9 less three deviations of 20 images."""
    assert evaluate(bundled, Settings(count=20, seeds=1, edition=edition_of(bundled.checkpoint))).mean >= 0.7
