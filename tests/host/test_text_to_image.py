"""The whole line on a real server: it runs, saves work, and draws what the library and the stock samplers draw."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blip3o_core.decoding.sampling import Sampling
from blip3o_core.pipeline import Pipeline
from blip3o_core.seeds import row_seeds
from blip3o_core.weights.names import SANA
from tools.comfyui.graphs import (
    PROMPT,
    close,
    latents,
    library_latents,
    node,
    text_to_image,
    with_custom_sampler,
    with_ksampler,
)

pytestmark = [pytest.mark.usefixtures("checkpoint")]


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    return Pipeline.load(checkpoint)


def test_the_graph_draws_what_the_library_draws(client, server, pipeline):
    """Any scale, cast, order or seed that differs between host and library."""
    result = client.run(text_to_image())
    assert close(latents(server, result), library_latents(pipeline))
    image = Image.open(io.BytesIO(client.view(**result.images[0])))
    assert image.size == (128, 128)
    expected = pipeline.render(pipeline.generate_tokens([PROMPT], [5]), [11], (128, 128), 4)[0].numpy() * 255
    assert np.abs(np.asarray(image, np.float32) - expected).max() <= 1.5


def test_a_new_noise_seed_runs_only_the_sampler_and_what_follows(client):
    """Tokens decoded again for a new rendering would cost most of the time of a picture."""
    client.run(text_to_image())
    again = client.run(text_to_image(noise_seed=12))
    assert again.cached == {"load", "generate", "condition", "empty"}
    assert set(again.executed) == {"sample", "decode", "save", "latents"}
    other = client.run(text_to_image(noise_seed=12, prompt="a blue boat"))
    assert other.cached == {"load", "empty"} and {"generate", "condition", "sample"} < set(other.executed)


def test_each_step_sends_a_preview_and_each_token_progress(client):
    """A latent format without RGB factors leaves the creator blind until the end."""
    seen = []

    def note(kind, data):
        if kind == "progress_state" and "generate" in data["nodes"]:
            seen.append((data["nodes"]["generate"]["value"], data["nodes"]["generate"]["max"]))

    result = client.run(text_to_image(seed=77), on_event=note)
    previews = [p for p in result.previews if p.metadata.get("node_id") == "sample"]
    assert len(previews) == 4
    rows = [p for p in result.previews if p.metadata.get("node_id") == "generate"]
    assert len(rows) == 5 and np.asarray(Image.open(io.BytesIO(rows[-1].image))).std() > 1
    assert np.asarray(Image.open(io.BytesIO(previews[-1].image))).std() > 1
    assert seen and seen[-1] == (25, 25)


@pytest.mark.parametrize("steps", [20, 25])
def test_the_stock_ksampler_draws_the_same(client, server, steps):
    """Wrong model sampling: a shifted or scaled timestep, another parametrisation."""
    ours = latents(server, client.run(text_to_image(steps=steps)))
    stock = latents(server, client.run(with_ksampler(text_to_image(), steps)))
    assert close(stock, ours)


def test_the_custom_sampler_draws_the_same_with_our_sigmas(client, server, pipeline):
    """A schedule off by one entry, which 'simple' is at 30 steps."""
    ours = latents(server, client.run(text_to_image(steps=30)))
    custom = latents(server, client.run(with_custom_sampler(text_to_image(), 30)))
    assert close(custom, ours) and close(ours, library_latents(pipeline, steps=30))


def test_a_batch_of_three_is_three_single_pictures(client, server, pipeline):
    """Rows that share a generator, or a latent of one row that renders only the first."""
    batch = latents(server, client.run(text_to_image(batch=3)))
    assert batch.shape[0] == 3
    for row in range(3):
        single = latents(server, client.run(text_to_image(seed=5 + row, noise_seed=11 + row)))
        assert close(batch[row : row + 1], single), row


def test_a_picture_twice_as_wide_as_high(client, server, pipeline):
    """Width and height swapped, or a square size built in."""
    result = client.run(text_to_image(size=(256, 128)))
    assert close(latents(server, result), library_latents(pipeline, size=(16, 32)))
    assert Image.open(io.BytesIO(client.view(**result.images[0]))).size == (256, 128)


def test_rows_that_end_early_are_masked(client, server, pipeline):
    """With the whole vocabulary an end token cuts a row short; padding behind it must not be looked at."""
    full = Sampling(image_tokens_only=False)
    ends = [min(pipeline.generate_tokens([PROMPT], [seed], full).lengths) for seed in range(40)]
    seed = next(seed for seed in range(38) if len(set(ends[seed : seed + 3])) > 1)
    batch = latents(server, client.run(text_to_image(batch=3, seed=seed, vocabulary="full")))
    for row in range(3):
        single = text_to_image(seed=seed + row, noise_seed=11 + row, vocabulary="full")
        assert close(batch[row : row + 1], latents(server, client.run(single))), row


def test_tiled_decoding(client):
    """A wrong cell size breaks tiling; one tile as large as the picture must be the whole picture."""
    graph = text_to_image()
    whole = client.view(**client.run(graph).images[0])
    for tile, exact in ((512, True), (64, False)):
        graph["decode"] = node(
            "VAEDecodeTiled", samples=["sample", 0], vae=["load", 2], tile_size=tile, overlap=32, temporal_size=64,
            temporal_overlap=8,
        )  # fmt: skip
        result = client.run(graph)
        image = client.view(**result.images[0])
        assert Image.open(io.BytesIO(image)).size == (128, 128)
        pixels = [np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (image, whole)]
        assert not exact or np.abs(pixels[0] - pixels[1]).max() <= 1


def test_a_lora_equals_its_merged_weights(client, server, checkpoint):
    """LoRA keys that no longer name a module are dropped with a line in the log and no other sign."""
    targets = (
        "transformer_blocks.0.attn1.to_q",
        "transformer_blocks.1.attn2.to_k",
        "proj_out",
        "caption_projection.linear_1",
    )
    weights = load_file(checkpoint / "model.safetensors")
    generator, lora, merged = torch.Generator().manual_seed(3), {}, dict(weights)
    for target in targets:
        weight = weights[f"{SANA}{target}.weight"]
        up = torch.randn(weight.shape[0], 2, generator=generator) * 0.1
        down = torch.randn(2, weight.shape[1], generator=generator)
        lora |= {f"diffusion_model.{target}.lora_up.weight": up, f"diffusion_model.{target}.lora_down.weight": down}
        merged[f"{SANA}{target}.weight"] = weight + up @ down
    loras, other = server.base / "models/loras", checkpoint.with_name("merged")
    loras.mkdir(exist_ok=True)
    save_file(lora, loras / "tiny_lora.safetensors")
    if not other.exists():
        other.mkdir()
        for file in checkpoint.iterdir():
            if file.name != "model.safetensors":
                (other / file.name).symlink_to(file)
        save_file(merged, other / "model.safetensors")
    graph = text_to_image()
    plain = latents(server, client.run(graph))
    graph["lora"] = node(
        "LoraLoaderModelOnly", model=["load", 1], lora_name="tiny_lora.safetensors", strength_model=1.0
    )
    graph["sample"]["inputs"]["model"] = ["lora", 0]
    patched = latents(server, client.run(graph))
    assert not close(patched, plain)
    assert close(patched, latents(server, client.run(text_to_image("merged"))))
    assert close(latents(server, client.run(text_to_image(noise_seed=11))), plain)


def test_a_saved_model_has_the_librarys_names(client, server, checkpoint):
    """Renamed modules would make LoRAs and saved models useless to everybody else."""
    graph = text_to_image()
    graph["keep"] = node("ModelSave", model=["load", 1], filename_prefix="kept")
    assert client.run(graph).status == "success"
    with safe_open(next((server.base / "output").glob("kept*.safetensors")), "pt") as file:
        saved = {name.removeprefix("model.diffusion_model.") for name in file.keys() if "diffusion_model" in name}
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        assert saved == {name.removeprefix(SANA) for name in file.keys() if name.startswith(SANA)}


def test_starting_from_a_picture(client, server):
    """Encoding, denoise below 1 and a noise mask: what the mask protects must come out as it went in."""
    picture = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    mask = io.BytesIO()
    half = np.zeros((128, 128), np.uint8)
    half[:, 64:] = 255
    Image.fromarray(half).save(mask, "PNG")
    graph = text_to_image(denoise=0.5)
    graph |= {
        "open": node("LoadImage", image=client.upload("start.png", data.getvalue())),
        "mask": node("LoadImageMask", image=client.upload("mask.png", mask.getvalue()), channel="red"),
        "encode": node("VAEEncode", pixels=["open", 0], vae=["load", 2]),
        "masked": node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0]),
        "before": node("SaveLatent", samples=["encode", 0], filename_prefix="latents/before"),
    }
    graph["sample"]["inputs"]["latent_image"] = ["masked", 0]
    result = client.run(graph)
    after, before = latents(server, result), latents(server, result, "before")
    assert close(after[..., :8], before[..., :8]) and not close(after[..., 8:], before[..., 8:])


def test_bf16_weights_on_a_device_that_computes_in_fp32(client, server, pipeline):
    """Weights in another dtype than activations, through every leaf: what a card without bf16 does."""
    graph = text_to_image()
    graph["load"]["inputs"]["dtype"] = "bf16"
    result = latents(server, client.run(graph))
    assert torch.isfinite(result).all() and result.shape == (1, 8, 16, 16)


def test_batch_rows_need_matching_latents(client):
    """Three pictures on two latents: the host would repeat and cut without a word."""
    graph = text_to_image(batch=3)
    graph["empty"]["inputs"]["batch_size"] = 2
    result = client.run(graph)
    assert result.status == "error" and "to 3 or 1" in result.error["exception_message"]


def test_row_seeds_wrap():
    """A seed at the top of its range must not overflow in the second row."""
    assert row_seeds(2**64 - 1, 2) == [2**64 - 1, 0]


def test_a_saved_image_names_no_folder_of_this_machine(client, server):
    """Catches a fingerprint of the loader with the user's paths in it: ComfyUI stores it in every image it saves."""
    result = client.run(text_to_image(seed=31))
    stored = Image.open(io.BytesIO(client.view(**result.images[0]))).info["prompt"]
    assert json.loads(stored)["load"]["is_changed"], "ComfyUI no longer stores fingerprints"
    assert str(server.base) not in stored and "safetensors" not in stored
