"""The library on a CUDA card against itself on the CPU. Skipped where there is no card."""

import pytest
import torch

from blip3o_core.decoding import Sampling
from blip3o_core.pipeline import Pipeline
from tests.tiny_checkpoint import make_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the gpu tier needs one"),
]
PROMPTS = ["a red cube", "two green balls on a long grey shelf"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("gpu") / "tiny")


def test_a_seed_means_the_same_picture_on_both_devices(folder):
    """Sampling or noise drawn on the device, whose generators differ from the CPU's."""
    pictures, codes = [], []
    for device in ("cpu", "cuda"):
        pipeline = Pipeline.load(folder, device=device, dtype=torch.float32)
        tokens = pipeline.draw(PROMPTS, [1, 2])
        codes.append(tokens.codes)
        pictures.append(pipeline.render(tokens, [3, 4], steps=5).cpu())
    assert torch.equal(*codes)
    # TF32 convolutions, when the user turned them on, are the coarsest thing here.
    assert (pictures[0] - pictures[1]).abs().max() < 1e-2


def test_bfloat16_draws_a_finite_picture(folder):
    """A tensor left in float32 or on the CPU, which half precision turns into an error."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.bfloat16)
    tokens = pipeline.draw(PROMPTS, [1, 2], Sampling(guidance=2.0), negative_prompt="blurry")
    picture = pipeline.render(tokens, [3, 4], size=(128, 64), steps=4)
    assert picture.shape == (2, 64, 128, 3) and bool(torch.isfinite(picture).all())
