"""References in the library: what is encoded, how strengths act, which modes there are, and masks."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.diffusion.reference_mode import REFERENCE_MODES, ReferenceMode, Strengths, predict
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


def picture(width=96, height=96, seed=0):
    pixels = torch.randint(256, (3, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy()).resize((width, height), Image.BICUBIC)


def edited(pipeline, references, **more) -> torch.Tensor:
    tokens = pipeline.generate_tokens(["make it blue"], [0], references=references)
    return pipeline.latents(tokens, [1], steps=3, references=references, **more)


def test_strength_0_is_without_the_path_and_1_as_trained(pipeline):
    """A strength that only scales: at 0 its zeros would still draw attention, and the picture beside would be black."""
    references = pipeline.references([picture()])
    without = {
        name: edited(pipeline, references, reference_mode=REFERENCE_MODES[name])
        for name in ("tokens", "cross", "noise", "both")
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
    """A strength in between that jumps to one of its ends."""
    references = pipeline.references([picture()])
    ends = [edited(pipeline, references, strengths=Strengths(noise=value)) for value in (0, 0.5, 1)]
    assert all(not torch.allclose(ends[1], end, atol=1e-3) for end in (ends[0], ends[2]))
    far = (ends[2] - ends[0]).norm()
    assert (ends[1] - ends[0]).norm() < far and (ends[1] - ends[2]).norm() < far


def test_text_strength_leads_from_the_null_condition(pipeline):
    """A text strength that scales the condition to zeros, which no condition in training was."""
    tokens = pipeline.generate_tokens(["a cat"], [0])
    null = condition(pipeline.language, tokens, strength=0.0)
    assert torch.equal(null.positive, null.negative.expand_as(null.positive))
    whole, half = (condition(pipeline.language, tokens, strength=value).positive for value in (1.0, 0.5))
    assert torch.allclose(half, (whole + null.negative) / 2, atol=1e-6)


def test_rows_of_a_batch_are_single_runs(pipeline):
    """Rows that take each other's reference, noise or half of the guidance."""
    references = pipeline.references([picture(120, 60)])
    lines = ["make it blue", "a rather longer instruction for the second row"]
    tokens = pipeline.generate_tokens(lines, [3, 4], references=references)
    together = pipeline.latents(tokens, [5, 6], steps=3, references=references)
    for row in range(2):
        alone = pipeline.latents(tokens.row(row), [5 + row], steps=3, references=references)
        assert torch.allclose(together[row : row + 1], alone, atol=1e-4)


def test_references_of_other_sizes_than_the_picture(pipeline):
    """Heights that differ crash where latents lie beside each other."""
    references = pipeline.references([picture(160, 80), picture(60, 100, 1), picture(seed=2)])
    tokens = pipeline.generate_tokens(["combine them"], [0], references=references)
    for size in (None, (64, 64), (128, 72)):
        made = pipeline.latents(tokens, [1], size, 2, references=references)
        width, height = size or references.views[0]
        assert made.shape == (1, 8, height // 8, width // 8) and bool(torch.isfinite(made).all())


def test_the_connector_works_where_the_latents_are(pipeline):
    """A host keeps the connector's weights elsewhere and moves them when it is called: its weight says nothing."""

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
    out = predict(
        pipeline.transformer, x, torch.ones(2), context, None, latents=[torch.randn(1, 8, 4, 4)],
        null=torch.tensor([True, False]), mode=ReferenceMode(cross=True), strengths=Strengths(),
        connector=Streamed(pipeline.language.reference_connector),
    )  # fmt: skip
    assert out.shape == x.shape


def test_a_switch_without_its_connector_is_named_when_the_checkpoint_is_opened(folder, tmp_path):
    """A NoneType error in the middle of a picture."""
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
    """A path that is silently left out, or a strength that does nothing."""
    own = ReferenceMode(cross=True)
    assert own.select("auto", Strengths(), "it") == ("cross", own)
    assert own.select("tokens", Strengths(), "it") == ("tokens", ReferenceMode())
    with pytest.raises(Blip3oError, match="it has no noise path.*edit-VAE"):
        own.select("both", Strengths(), "it")
    with pytest.raises(Blip3oError, match="noise strength is 0.5"):
        own.select("auto", Strengths(noise=0.5), "it")
    for wrong in (-1, 11, float("nan")):
        with pytest.raises(Blip3oError, match="strength of cross"):
            Strengths(cross=wrong)


def test_a_mask_keeps_the_latents_outside(pipeline):
    """A mask that is applied once instead of at every step, or to the wrong cells."""
    references = pipeline.references([picture()])
    change_mask = torch.zeros(96, 96)
    change_mask[:24, :24] = 1
    made = edited(pipeline, references, change_mask=change_mask) / pipeline.autoencoder.config.scaling_factor
    known = references.latents[0]
    cells = change_mask.unfold(0, 12, 12).unfold(1, 12, 12).amax((-1, -2)) > 0  # 96 pixels, 8 cells
    assert torch.allclose(made[..., ~cells], known[..., ~cells], atol=1e-4)
    assert not torch.allclose(made[..., cells], known[..., cells], atol=1e-1)
    for wrong, words in (
        ({"change_mask": torch.zeros(96, 96)}, "empty"), ({"change_mask": torch.ones(7, 200)}, "same size"),
        ({"change_mask": change_mask, "size": (128, 128)}, "the size is"),
    ):  # fmt: skip
        with pytest.raises(Blip3oError, match=words):
            edited(pipeline, references, **wrong)
    with pytest.raises(Blip3oError, match="without references"):
        pipeline.latents(pipeline.generate_tokens(["a cat"], [0]), [0], change_mask=change_mask)


def test_what_cannot_be_encoded_is_refused(pipeline):
    """Sides that the autoencoder crops or chokes on, and numbers of pictures that no prompt holds."""
    for pictures, more, words in (
        ([], {}, "0 reference pictures"), ([picture()] * 9, {}, "9 reference pictures"),
        ([picture()], {"side": 100}, "Nearest: 96"), ([picture()], {"side": 1}, "Nearest: 8"),
        ([picture()], {"side": -8}, "multiple of 8"), ([picture()], {"fit": "squash"}, "stretch"),
    ):  # fmt: skip
        with pytest.raises(Blip3oError, match=words):
            pipeline.references(pictures, **more)


def test_reference_latents_of_other_numbers_of_rows_are_refused(pipeline):
    """Rows that are dropped or doubled without a word."""
    given = condition(pipeline.language, pipeline.generate_tokens(["a cat"], [0]))
    conditioning = diffusion.ReferenceConditioning(
        [torch.randn(3, 8, 8, 8)], ReferenceMode(cross=True), connector=pipeline.language.reference_connector
    )
    with pytest.raises(Blip3oError, match="one row"):
        diffusion.sample(
            pipeline.transformer, torch.randn(2, 8, 8, 8), given.positive, given.negative, diffusion.sigmas(1),
            references=conditioning,
        )  # fmt: skip
