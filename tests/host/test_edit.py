"""Edits on a real server: every path, what is cached, what the library says, masks to the bit, and bad pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.diffusion.reference_mode import REFERENCE_MODES, Strengths
from blip3o_core.editing.references import MAX_REFERENCES, EditInputs
from blip3o_core.images.preprocess import FITS
from blip3o_core.pipeline import Pipeline
from tools.comfyui.graphs import close, edit, latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("edit_checkpoint", "checkpoint")]
SIZES = {"square": (96, 96), "wide": (160, 90), "tall": (50, 120)}


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.BICUBIC)


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module", autouse=True)
def pictures(server):
    """Uploaded as <name>.png."""
    with server.client() as client:
        for seed, (name, size) in enumerate(SIZES.items()):
            client.upload(f"{name}.png", png(picture(size, seed)))


@pytest.fixture(scope="module")
def pipeline(edit_checkpoint):
    return Pipeline.load(edit_checkpoint)


def by_library(pipeline: Pipeline, *names: str, instruction="make it blue", strengths=None, mode=None, fit="stretch"):
    """The library's unscaled latents of the graph of `edit`."""
    shown = [picture(SIZES[name], list(SIZES).index(name)) for name in names]
    references = pipeline.references(shown, fit)
    tokens = pipeline.generate_tokens([instruction], [5], references=references)
    made = pipeline.latents(tokens, [11], None, 4, 2.0, edit=EditInputs(references, strengths or Strengths(), mode))
    return made / pipeline.autoencoder.config.scaling_factor


@pytest.mark.parametrize("names", [("square",), ("wide",), ("tall",), ("square", "wide")], ids=" ".join)
def test_the_graph_edits_as_the_library_does(client, server, pipeline, names):
    """Any aspect, scale, order, null half or padding of references that differs between host and library."""
    result = client.run(edit(*(f"{name}.png" for name in names)))
    assert close(latents(server, result), by_library(pipeline, *names))
    [shown] = result.images
    [size] = pipeline.references([picture(SIZES[names[0]])]).vae_sizes
    assert Image.open(io.BytesIO(client.view(**shown))).size == size


@pytest.mark.parametrize(
    "changes, strengths",
    [
        ({"reference_mode": "tokens"}, Strengths(cross=0, noise=0)),
        ({"reference_mode": "cross"}, Strengths(noise=0)),
        ({"reference_mode": "noise"}, Strengths(cross=0)),
        ({"cross_strength": 0.5, "noise_strength": 0.25, "text_strength": 0.7}, Strengths(0.7, 0.5, 0.25)),
    ],
    ids=["tokens", "cross", "noise", "part of all"],
)
def test_strengths_and_paths_reach_the_network(client, server, pipeline, changes, strengths):
    """A widget that is drawn but not wired, or wired to the other way."""
    graph = edit("wide.png")
    graph["condition"]["inputs"] |= changes
    ours = latents(server, client.run(graph))
    assert close(ours, by_library(pipeline, "wide", strengths=strengths))
    assert not close(ours, by_library(pipeline, "wide"))


def test_stock_reference_latent_is_our_reference(client, server):
    """Reference latents that only our own conditioner can attach shut out every workflow made of stock nodes."""
    ours = latents(server, client.run(edit("wide.png")))
    graph = edit("wide.png")
    del graph["condition"]["inputs"]["reference"]
    for k, name in enumerate(("positive", "negative")):
        graph[name] = node("ReferenceLatent", conditioning=["condition", k], latent=["encode", 2])
        graph["sample"]["inputs"][name] = [name, 0]
    assert close(latents(server, client.run(graph)), ours)


def test_strengths_hold_for_a_stock_reference_latent_too(client, server):
    """Widgets that are set and silently dropped where the reference comes from another node."""
    graph = edit("wide.png")
    graph["condition"]["inputs"] |= {"cross_strength": 0.5, "noise_strength": 0.25}
    ours = latents(server, client.run(graph))
    del graph["condition"]["inputs"]["reference"]
    for k, name in enumerate(("positive", "negative")):
        graph[name] = node("ReferenceLatent", conditioning=["condition", k], latent=["encode", 2])
        graph["sample"]["inputs"][name] = [name, 0]
    assert close(latents(server, client.run(graph)), ours)


def test_the_positive_zeroed_out_is_a_null_condition(client, server):
    """References that stay in the half that guidance leads away from."""
    graph = edit("wide.png")
    graph["zero"] = node("ConditioningZeroOut", conditioning=["condition", 0])
    graph["sample"]["inputs"]["negative"] = ["zero", 0]
    zeroed = latents(server, client.run(graph))
    graph["condition"]["inputs"]["cross_strength"] = 0.0
    assert not close(latents(server, client.run(graph)), zeroed)
    graph["sample"]["inputs"]["guidance"] = 1.0  # then the null half counts for nothing
    alone = latents(server, client.run(graph))
    graph["sample"]["inputs"]["negative"] = ["condition", 1]
    assert close(latents(server, client.run(graph)), alone)


def test_a_longer_condition_beside_another_does_not_weaken_its_references(client, server):
    """The host repeats a shorter context to run it with a longer one; the references behind it would weigh half."""
    graph = edit("wide.png")
    expected = latents(server, client.run(graph))
    graph["generate2"] = {**graph["generate"], "inputs": {**graph["generate"]["inputs"], "seed": 9}}
    graph["condition2"] = node(
        "BLIP3oHiddenStateConditioner", lm=["load", 0], tokens=["generate2", 0], reference=["encode", 0]
    )
    graph["both"] = node("ConditioningConcat", conditioning_to=["condition2", 0], conditioning_from=["condition2", 0])
    graph["weak"] = node("ConditioningSetAreaStrength", conditioning=["both", 0], strength=0.0)
    graph["two"] = node("ConditioningCombine", conditioning_1=["condition", 0], conditioning_2=["weak", 0])
    graph["sample"]["inputs"]["positive"] = ["two", 0]
    assert close(latents(server, client.run(graph)), expected)


def test_stock_samplers_edit_alike(client, server):
    """A reference that reaches only our sampler."""
    graph = edit("wide.png", steps=10)
    ours = latents(server, client.run(graph))
    graph["sample"] = node(
        "KSampler", model=["load", 1], positive=["condition", 0], negative=["condition", 1],
        latent_image=["encode", 2], seed=11, steps=10, cfg=2.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    assert close(latents(server, client.run(graph)), ours)


def test_nothing_is_encoded_again_for_a_new_seed_or_instruction(client):
    """Pictures that are encoded anew, or tokens drawn anew, for what they do not depend on."""
    client.run(edit("wide.png", "square.png"))
    again = client.run(edit("wide.png", "square.png", noise_seed=12))
    assert {"load", "encode", "generate", "condition"} <= again.cached and "sample" in again.executed
    other = client.run(edit("wide.png", "square.png", noise_seed=12, instruction="make it red"))
    assert {"load", "encode"} <= other.cached and {"generate", "condition"} <= set(other.executed)


def test_two_instructions_in_a_batch_equal_two_singles(client, server):
    """Rows of a batch that share a reference and change each other, or get each other's padding."""
    lines = ["make it blue", "put a very small yellow hat on everything in it"]
    together = latents(server, client.run(edit("wide.png", instruction="\n".join(lines)) | _lines(lines)))
    for row, line in enumerate(lines):
        alone = latents(server, client.run(edit("wide.png", instruction=line, seed=5 + row, noise_seed=11 + row)))
        assert close(together[row : row + 1], alone)


def _lines(lines: list[str]) -> dict:
    draw = edit("wide.png", instruction="\n".join(lines))["generate"]
    draw["inputs"]["prompt_lines"] = "one per line"
    return {"generate": draw}


def test_outside_the_mask_every_pixel_is_the_input(client, server):
    """A resized, re-encoded or off-by-one composite: visible seams, and a picture that drifts with every edit."""
    size = (150, 90)
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    alpha = np.full((size[1], size[0]), 255, np.uint8)
    alpha[20:50, 30:90] = 0  # the host's mask is 1 where alpha is 0
    # The host multiplies nothing by alpha: the colours under it are the picture's.
    client.upload("masked.png", png(Image.fromarray(np.dstack([noise, alpha]))))
    result = client.run(edit("masked.png", mask=["image1", 1]))
    assert result.status == "success", result.error
    made = np.asarray(Image.open(io.BytesIO(client.view(**result.images[0]))).convert("RGB"))
    assert made.shape == noise.shape and np.array_equal(made[alpha > 0], noise[alpha > 0])
    assert (made[alpha == 0] != noise[alpha == 0]).mean() > 0.5


def test_latents_outside_the_mask_are_the_reference(client, server):
    """A noise mask that is lost on the way to the sampler: everything is drawn anew and hidden by the composite."""
    mask = np.zeros((90, 160), np.uint8)
    mask[:40, :80] = 255
    client.upload("mask.png", png(Image.fromarray(mask).convert("RGB")))
    graph = edit("wide.png", mask=["mask", 0])
    graph["mask"] = node("LoadImageMask", image="mask.png", channel="red")
    graph["before"] = node("SaveLatent", samples=["encode", 2], filename_prefix="latents/before")
    result = client.run(graph)
    after, before = latents(server, result), latents(server, result, "before")
    half = after.shape[-1] // 2 + 1, after.shape[-2] // 2 + 1
    assert close(after[..., :, half[0] :], before[..., :, half[0] :])
    assert not close(after[..., :2, :2], before[..., :2, :2])
    graph["encode"]["inputs"].pop("mask")
    graph["noise mask"] = node("SetLatentNoiseMask", samples=["encode", 2], mask=["mask", 0])
    graph["sample"]["inputs"]["latent_image"] = ["noise mask", 0]
    stock = latents(server, client.run(graph))
    assert close(stock[..., :, half[0] :], before[..., :, half[0] :])


def test_reconstruction_from_tokens_alone(client, server, pipeline):
    """Tokens of the encoder that the conditioner cannot read."""
    graph = edit("square.png")
    graph["condition"]["inputs"] = {"lm": ["load", 0], "tokens": ["encode", 1]}
    del graph["generate"]
    made = latents(server, client.run(graph))
    shown = torch.tensor(np.asarray(picture(SIZES["square"])), dtype=torch.float32)[None] / 255
    tokens = pipeline.tokens_of(shown, [""])
    size = pipeline.references([picture(SIZES["square"])]).vae_sizes[0]
    expected = pipeline.latents(tokens, [11], size, 4, 2.0) / pipeline.autoencoder.config.scaling_factor
    assert close(made, expected)


def test_text_to_image_runs_on_an_edit_checkpoint(client, server, pipeline):
    """The authors' edit script cannot draw without an image."""
    made = latents(server, client.run(text_to_image("edit")))
    tokens = pipeline.generate_tokens([text_to_image()["generate"]["inputs"]["prompt"]], [5])
    expected = pipeline.latents(tokens, [11], (128, 128), 4, 2.0) / pipeline.autoencoder.config.scaling_factor
    assert close(made, expected)


def test_a_checkpoint_without_reference_uses_edits_by_tokens_and_refuses_more(client, server):
    """Catches an edit checkpoint taken for granted: a use that does not exist must be named, not silently left out."""
    assert client.run(edit("wide.png", checkpoint="tiny")).status == "success"
    graph = edit("wide.png", checkpoint="tiny")
    graph["condition"]["inputs"]["reference_mode"] = "cross"
    result = client.run(graph)
    assert result.status == "error" and "edit-VAE" in result.error["exception_message"]
    graph["condition"]["inputs"] |= {"reference_mode": "auto", "cross_strength": 0.5}
    result = client.run(graph)
    assert (
        result.status == "error"
        and "does not use reference images in cross-attention" in result.error["exception_message"]
    )
    graph = edit("wide.png", checkpoint="tiny")
    graph["positive"] = node("ReferenceLatent", conditioning=["condition", 0], latent=["encode", 2])
    graph["sample"]["inputs"]["positive"] = ["positive", 0]
    result = client.run(graph)
    assert result.status == "error" and "cannot use them" in result.error["exception_message"]


def test_more_references_than_the_prompt_holds(client):
    """A prompt that is cut loses the picture's start; the host would show a tensor error, or nothing."""
    graph = edit(*["square.png"] * 8, instruction="combine all of these " * 60)
    result = client.run(graph)
    assert result.status == "error" and "8 reference images of 25 tokens" in result.error["exception_message"]


def test_widgets_offer_what_the_library_has(client):
    """A path or a ninth picture that the library takes and no widget offers: the pack lists them before torch loads."""
    info = client.object_info()
    paths = info["BLIP3oHiddenStateConditioner"]["input"]["optional"]["reference_mode"][1]["options"]
    images = info["BLIP3oEditReferenceEncoder"]["input"]["required"]
    assert paths == list(REFERENCE_MODES) and len(images["images"][1]["template"]["names"]) == MAX_REFERENCES
    assert images["fit"][1]["options"] == list(FITS)


def test_the_creator_reads_what_was_resized_and_what_is_in_the_prompt(client):
    """Silent resizing, and a token budget that is only met as an error."""
    graph = edit("wide.png", instruction="put image 2 into image 1")
    graph["shown"] = node("PreviewAny", source=["generate", 1])
    result = client.run(graph)
    [resized] = result.outputs["encode"]["text"]
    assert "160x90" in resized and "5x5 codes" in resized and "88x48" in resized
    [said] = result.outputs["shown"]["text"]
    assert "of 400 tokens, 25 of them for reference images" in said and "mentions image 2" in said
