"""The library on a CUDA card against itself on the CPU. Skipped where there is no card."""

import logging

import pytest
import torch

from blip3o_core.decoding import decode
from blip3o_core.pipeline import Pipeline
from blip3o_core.sampling import Sampling
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


@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(), Sampling(guidance=2.5)], ids=str)
def test_a_cuda_graph_writes_the_tokens_of_the_modules(folder, sampling, caplog):
    """A step that was recorded with a number of its own recording: a position, a mask, a seed, rows of guidance."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.float32)
    language, encode = pipeline.language, pipeline.checkpoint.prompt_encoder.encode
    rows = [encode(f"{k} cubes" + " on a shelf" * (k % 3)) for k in range(10)]
    with caplog.at_level(logging.INFO):
        ways = [decode(language, rows, list(range(10)), sampling, encode(""), engine=e) for e in ("auto", "modules")]
    assert torch.equal(ways[0].ids, ways[1].ids)
    assert torch.allclose(ways[0].hidden, ways[1].hidden, atol=1e-3)
    assert not caplog.records, "no graph was recorded"
    # Recorded anew, with other weights, and in the dtype of published checkpoints.
    with torch.no_grad():
        language.model.norm.weight.mul_(0.5)
    ways = [decode(language, rows, list(range(10)), sampling, encode(""), engine=e) for e in ("auto", "modules")]
    assert torch.allclose(ways[0].hidden, ways[1].hidden, atol=1e-3)


def test_a_cuda_graph_can_be_cancelled_and_the_next_run_is_whole(folder):
    """A capture or a stream that is left half way."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.bfloat16)
    language, row = pipeline.language, pipeline.checkpoint.prompt_encoder.encode("two cubes")

    def stop(done, total, ids):
        if done == 5:
            raise KeyboardInterrupt

    whole = decode(language, [row], [0], Sampling())
    with pytest.raises(KeyboardInterrupt):
        decode(language, [row], [0], Sampling(), callback=stop)
    assert torch.equal(decode(language, [row], [0], Sampling()).ids, whole.ids)
