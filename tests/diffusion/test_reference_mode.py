"""References in the library: what is encoded, how strengths act, which modes there are, and masks."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.diffusion.reference_conditioning import ReferenceConditioning
from blip3o_core.diffusion.reference_mode import REFERENCE_MODES, ReferenceMode, Strengths
from blip3o_core.editing.references import EditInputs
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline, condition
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

BOTH = ("use_und_image_vae", "use_und_image_vae_as_noise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("edit") / "m", edit=BOTH, sizes=Sizes(prompt_limit=300))


@pytest.fixture(scope="module")
def pipeline(folder):
    return Pipeline.load(folder)


def image(width=96, height=96, seed=0):
    pixels = torch.randint(256, (3, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy()).resize((width, height), Image.BICUBIC)


def edited(pipeline, references, size=None, **more) -> torch.Tensor:
    """`more`: of EditInputs."""
    tokens = pipeline.generate_tokens(["make it blue"], [0], references=references)
    return pipeline.latents(tokens, [1], size, steps=3, edit=EditInputs(references, **more))


def test_strength_0_is_without_the_use_and_1_as_trained(pipeline):
    """Catches a strength that only scales: zeros get attention too, and a black reference next to the latent counts."""
    references = pipeline.references([image()])
    without = {
        name: edited(pipeline, references, mode=REFERENCE_MODES[name]) for name in ("tokens", "cross", "noise", "both")
    }
    assert torch.equal(edited(pipeline, references), without["both"])
    for name, strengths in (
        ("cross", Strengths(noise=0)),
        ("noise", Strengths(cross=0)),
        ("tokens", Strengths(1, 0, 0)),
    ):
        assert torch.equal(edited(pipeline, references, strengths=strengths), without[name])
    near = edited(pipeline, references, strengths=Strengths(cross=1e-6, noise=1e-6))
    assert torch.allclose(near, without["tokens"], atol=1e-3)


def test_half_the_strength_is_between(pipeline):
    """Catches a strength in between that jumps to one of its ends."""
    references = pipeline.references([image()])
    ends = [edited(pipeline, references, strengths=Strengths(noise=value)) for value in (0, 0.5, 1)]
    assert all(not torch.allclose(ends[1], end, atol=1e-3) for end in (ends[0], ends[2]))
    far = (ends[2] - ends[0]).norm()
    assert (ends[1] - ends[0]).norm() < far and (ends[1] - ends[2]).norm() < far


def test_text_strength_leads_from_the_null_condition(pipeline):
    """Catches a text strength that scales the condition to zeros, which no condition in training was."""
    tokens = pipeline.generate_tokens(["a cat"], [0])
    null = condition(pipeline.language, tokens, strength=0.0)
    assert torch.equal(null.positive, null.negative.expand_as(null.positive))
    whole, half = (condition(pipeline.language, tokens, strength=value).positive for value in (1.0, 0.5))
    assert torch.allclose(half, (whole + null.negative) / 2, atol=1e-6)


def test_rows_of_a_batch_are_single_runs(pipeline):
    """Catches rows that take each other's reference, noise or half of the guidance."""
    references = pipeline.references([image(120, 60)])
    lines = ["make it blue", "a rather longer instruction for the second row"]
    tokens = pipeline.generate_tokens(lines, [3, 4], references=references)
    together = pipeline.latents(tokens, [5, 6], steps=3, edit=EditInputs(references))
    for row in range(2):
        alone = pipeline.latents(tokens.row(row), [5 + row], steps=3, edit=EditInputs(references))
        assert torch.allclose(together[row : row + 1], alone, atol=1e-4)


def test_references_of_other_sizes_than_the_output(pipeline):
    """Catches a crash where latents of different heights are put side by side."""
    references = pipeline.references([image(160, 80), image(60, 100, 1), image(seed=2)])
    tokens = pipeline.generate_tokens(["combine them"], [0], references=references)
    for size in (None, (64, 64), (128, 72)):
        made = pipeline.latents(tokens, [1], size, 2, edit=EditInputs(references))
        width, height = size or references.vae_sizes[0]
        assert made.shape == (1, 8, height // 8, width // 8) and bool(torch.isfinite(made).all())


def test_the_connector_works_where_the_latents_are(pipeline):
    """Catches a connector asked for its device: a host keeps its weights elsewhere and moves them for each call."""

    class Streamed(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.weight = inner, torch.empty(1, device="meta")

        def __getitem__(self, index):
            return self

        def forward(self, x):
            assert x.device.type == "cpu"
            return self.inner(x)

    x, context = torch.randn(2, 8, 4, 4), torch.randn(2, 26, 40)
    connector = Streamed(pipeline.language.reference_connector)
    references = ReferenceConditioning([torch.randn(1, 8, 4, 4)], ReferenceMode(cross=True), connector=connector)
    is_null = torch.tensor([True, False])
    out = references.predict_velocity(pipeline.transformer, x, torch.ones(2), context, None, is_null)
    assert out.shape == x.shape


def test_a_switch_without_its_connector_is_named_when_the_checkpoint_is_opened(folder, tmp_path):
    """Catches a NoneType error in the middle of a run."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            (broken / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (broken / path.relative_to(folder)).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    cut = {name: tensor for name, tensor in tensors.items() if "und_image_vae_connector" not in name}
    save_file(cut, broken / "model.safetensors")
    with pytest.raises(Blip3oError, match="missing: model.und_image_vae_connector"):
        open_checkpoint(broken).validate()
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "use_und_image_vae": False}))
    assert not open_checkpoint(broken).reference_mode.cross
    open_checkpoint(broken).validate()


def test_modes_by_name():
    """Catches a use of the references that is silently left out, or a strength that has no effect."""
    own = ReferenceMode(cross=True)
    assert own.select("auto", Strengths(), "it") == ("cross", own)
    assert own.select("tokens", Strengths(), "it") == ("tokens", ReferenceMode())
    with pytest.raises(Blip3oError, match="reference_mode 'both' uses .* but it does not support that.*edit-VAE"):
        own.select("both", Strengths(), "it")
    with pytest.raises(Blip3oError, match=r"noise_strength is 0.5, but .* 'auto' \(here 'cross'\) does not"):
        own.select("auto", Strengths(noise=0.5), "it")
    for wrong in (-1, 11, float("nan")):
        with pytest.raises(Blip3oError, match="cross_strength is"):
            Strengths(cross=wrong)


def test_a_mask_keeps_the_latents_outside(pipeline):
    """Catches a mask that is applied once instead of at every step, or to the wrong cells."""
    references = pipeline.references([image()])
    change_mask = torch.zeros(96, 96)
    change_mask[:24, :24] = 1
    made = edited(pipeline, references, change_mask=change_mask) / pipeline.autoencoder.config.scaling_factor
    known = references.latents[0]
    cells = change_mask.unfold(0, 12, 12).unfold(1, 12, 12).amax((-1, -2)) > 0  # 96 pixels, 8 cells
    assert torch.allclose(made[..., ~cells], known[..., ~cells], atol=1e-4)
    assert not torch.allclose(made[..., cells], known[..., cells], atol=1e-1)
    for wrong, words in (
        ({"change_mask": torch.zeros(96, 96)}, "empty"), ({"change_mask": torch.ones(7, 200)}, "same size"),
        ({"change_mask": change_mask, "size": (128, 128)}, "first image was encoded, 64x64"),
    ):  # fmt: skip
        with pytest.raises(Blip3oError, match=words):
            edited(pipeline, references, **wrong)


def test_what_cannot_be_encoded_is_refused(pipeline):
    """Catches sides that the autoencoder crops or chokes on, and numbers of images that no prompt holds."""
    for images, more, words in (
        ([], {}, "0 reference images"), ([image()] * 9, {}, "9 reference images"),
        ([image()], {"resolution": 100}, "Nearest: 96"), ([image()], {"resolution": 1}, "Nearest: 8"),
        ([image()], {"resolution": -8}, "multiple of 8"), ([image()], {"fit": "squash"}, "stretch"),
    ):  # fmt: skip
        with pytest.raises(Blip3oError, match=words):
            pipeline.references(images, **more)


def test_reference_latents_of_other_numbers_of_rows_are_refused(pipeline):
    """Catches rows that are dropped or doubled without a word."""
    connector = pipeline.language.reference_connector
    references = ReferenceConditioning([torch.randn(3, 8, 8, 8)], ReferenceMode(cross=True), connector=connector)
    conditioning = condition(pipeline.language, pipeline.generate_tokens(["a cat"], [0]))
    conditioning = replace(conditioning, references=references)
    schedule, guidance = diffusion.sigmas(1), diffusion.GuidanceSchedule()
    with pytest.raises(Blip3oError, match="one reference latent for all"):
        diffusion.sample(pipeline.transformer, torch.randn(2, 8, 8, 8), conditioning, schedule, guidance)
