"""The library on a CUDA card against itself on the CPU. Skipped where there is no card."""

import json
import logging

import pytest
import torch

from blip3o_core.decoding.engine import choose_engine, decode
from blip3o_core.decoding.interface import Job
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny.recipe import autoencoder
from tests.support.tiny_checkpoint import make_checkpoint

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the gpu tier needs one"),
]
PROMPTS = ["a red cube", "two green balls on a long grey shelf"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("gpu") / "tiny")


def test_a_seed_means_the_same_image_on_both_devices(folder):
    """Catches random numbers made on the device, whose generators differ from the CPU's."""
    images, codes = [], []
    for device in ("cpu", "cuda"):
        pipeline = Pipeline.load(folder, device=device, dtype=torch.float32)
        tokens = pipeline.generate_tokens(PROMPTS, [1, 2])
        codes.append(tokens.codes)
        images.append(pipeline.render(tokens, [3, 4], steps=5).cpu())
    assert torch.equal(*codes)
    # TF32 convolutions, when the user turned them on, are the coarsest thing here.
    assert (images[0] - images[1]).abs().max() < 1e-2


def test_bfloat16_renders_a_finite_image(folder):
    """Catches a tensor that stayed in float32 or on the CPU: half precision turns it into an error."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.bfloat16)
    tokens = pipeline.generate_tokens(PROMPTS, [1, 2], Sampling(guidance=2.0), negative_prompt="blurry")
    image = pipeline.render(tokens, [3, 4], size=(128, 64), steps=4)
    assert image.shape == (2, 64, 128, 3) and bool(torch.isfinite(image).all())


SAMPLINGS = [Sampling(top_k=1), Sampling(), Sampling(guidance=2.5), Sampling(top_k=0, top_p=1.0)]


@pytest.mark.parametrize("engine", ["fused", "graph"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "default", "guided", "all"])
def test_the_quick_engines_write_the_tokens_of_the_modules(folder, engine, sampling, caplog):
    """Catches a captured step that keeps a position, a mask or a random number of its capture, or the wrong rows of
    guidance; and a kernel that reads before another program has written."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.float32)
    language, encode = pipeline.language, pipeline.checkpoint.prompt_encoder.encode
    rows = [encode(f"{k} cubes" + " on a shelf" * (k % 3)) for k in range(4)]

    def ways() -> list:
        asked = Prompts(rows, encode(""))
        return [decode(language, asked, list(range(4)), sampling, engine=each) for each in (engine, "modules")]

    with caplog.at_level(logging.WARNING):
        quick, walked = ways()
    assert torch.equal(quick.ids, walked.ids)
    assert torch.allclose(quick.hidden, walked.hidden, atol=1e-3)
    assert not caplog.records, "another engine took its place, or no graph was captured"
    # Captured again, with other weights.
    with torch.no_grad():
        language.model.norm.weight.mul_(0.5)
    quick, walked = ways()
    assert torch.allclose(quick.hidden, walked.hidden, atol=1e-3)


def test_the_quickest_engine_is_the_fused_step(folder, caplog):
    """Catches a card that could run it, and a process that never does."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.bfloat16)
    with caplog.at_level(logging.INFO):
        chosen = choose_engine("auto", Job(pipeline.language, 1, Sampling(), torch.device("cuda", 0), torch.bfloat16))
    assert chosen == "fused", caplog.text


def test_a_row_is_the_single_run_to_the_bit_in_bfloat16(folder):
    """Catches sums whose order depends on the number of rows, which bfloat16 rounds to other tokens."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.bfloat16)
    language, encode = pipeline.language, pipeline.checkpoint.prompt_encoder.encode
    rows = [encode("a cube"), encode("a cube"), encode("two cubes on a long shelf"), encode("a ball")]
    together = decode(language, Prompts(rows), [3, 4, 5, 6], Sampling(), engine="fused")
    for k, row in enumerate(rows):
        alone = decode(language, Prompts([row]), [3 + k], Sampling(), engine="fused")
        assert torch.equal(alone.ids[0], together.ids[k]) and torch.equal(alone.hidden[0], together.hidden[k])


@pytest.mark.parametrize("engine", ["fused", "graph"])
def test_a_run_can_be_cancelled_and_the_next_one_is_whole(folder, engine):
    """Catches a capture or a stream that a cancelled run leaves half done."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.bfloat16)
    language, row = pipeline.language, pipeline.checkpoint.prompt_encoder.encode("two cubes")

    def stop(done, total, ids):
        if done == 5:
            raise KeyboardInterrupt

    whole = decode(language, Prompts([row]), [0], Sampling(), engine=engine)
    with pytest.raises(KeyboardInterrupt):
        decode(language, Prompts([row]), [0], Sampling(), callback=stop, engine=engine)
    assert torch.equal(decode(language, Prompts([row]), [0], Sampling(), engine=engine).ids, whole.ids)


def test_a_captured_diffusion_step_gives_the_same_latents(folder, monkeypatch):
    """Catches a captured step that keeps the condition, the noise or the time of its capture; also with guidance in a
    part of the steps."""
    pipeline = Pipeline.load(folder, device="cuda", dtype=torch.float32)
    tokens = pipeline.generate_tokens(PROMPTS[:1], [1])
    for interval in ((0.0, 1.0), (0.0, 0.5)):
        guidance, drawn = diffusion.GuidanceSchedule(2.0, interval), []
        for calls in (1, 10**9):
            monkeypatch.setattr(diffusion, "RECORDED_CALLS", calls)
            drawn.append(pipeline.latents(tokens, [3], steps=10, guidance=guidance))
        assert torch.equal(*drawn)


def test_a_stage_of_the_recipe_trains_as_on_the_cpu(tmp_path):
    """Catches a part that stays on the CPU, and data of processes that differs from data made here."""
    found = []
    for device, workers in (("cpu", 0), ("cuda", 2)):
        settings = autoencoder.SETTINGS.replace(steps=3, batch=6, bf16=False, device=device, workers=workers)
        network = autoencoder.train(tmp_path / device, settings)
        assert next(network.parameters()).device.type == "cpu"
        found.append([json.loads(line)["loss"] for line in (tmp_path / device / "log.jsonl").read_text().splitlines()])
    assert found[0] == pytest.approx(found[1], rel=0.01)
