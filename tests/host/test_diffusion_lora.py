"""The LoRA that `blip3o diffusion-rl` writes, by ComfyUI's own loader: what the library makes with it merged."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.pipeline import Pipeline
from blip3o_core.training.diffusion_rl import adapter
from blip3o_core.training.save import save_checkpoint
from tools.comfyui.graphs import PROMPT, close, latents, library_latents, node, text_to_image

ALPHA, RANK, FOLDER = 6, 3, "diffusion_rl"
# The default ones, and the further ones of docs/diffusion_rl.md.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "linear_1", "linear_2", "proj_out")


@pytest.fixture(scope="module")
def merged(server, checkpoint, tmp_path_factory):
    """The library's pipeline with a LoRA of random numbers merged, as a run saves it. ComfyUI has the LoRA alone."""
    source = open_checkpoint(checkpoint)
    transformer = source.load_transformer(torch.float32)
    adapter.add_adapters(transformer, RANK, ALPHA, TARGETS, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.adapter_parameters(transformer).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    adapter.save_adapters(server.base / "models/loras" / FOLDER, transformer, ALPHA)
    folder = tmp_path_factory.mktemp("merged")
    save_checkpoint(folder, source, adapter.merged_tensors(transformer, ALPHA / RANK), 10**9)
    return Pipeline.load(folder)


def with_lora(strength: float) -> dict:
    graph = text_to_image()
    graph["lora"] = node(
        "LoraLoaderModelOnly", model=["load", 1], lora_name=f"{FOLDER}/{adapter.FILE}", strength_model=strength
    )
    graph["sample"]["inputs"]["model"] = ["lora", 0]
    return graph


def test_comfyui_makes_what_the_library_makes_with_the_lora_merged(client, server, merged):
    """Catches a LoRA of which ComfyUI passes over a part with a line in its log, one that it scales otherwise than in
    training, and one that stays after it was turned off."""
    plain = latents(server, client.run(text_to_image()))
    before = len(server.log_text())
    result = client.run(with_lora(1.0))
    tuned, said = latents(server, result), server.log_text()[before:].lower()
    assert not close(tuned, plain) and close(tuned, library_latents(merged))
    image = np.asarray(Image.open(io.BytesIO(client.view(**result.images[0]))), np.float32)
    expected = merged.render(merged.generate_tokens([PROMPT], [5]), [11], (128, 128), 4)[0].numpy() * 255
    assert np.abs(image - expected).max() <= 1.5  # of 255: the PNG is rounded
    assert "not loaded" not in said, said
    assert torch.equal(latents(server, client.run(with_lora(0.0))), plain)
    assert torch.equal(latents(server, client.run(text_to_image())), plain)
