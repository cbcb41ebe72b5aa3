"""A checkpoint folder of the published shapes with random weights in bfloat16: 8 GB that a real ComfyUI loads."""

from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file

from benchmarks import models
from blip3o_core.models import image_tokenizer
from blip3o_core.weights.names import SANA, VAE
from tests.support import tiny_checkpoint

from .bench import Bench


def write(folder: Path, bench: Bench) -> None:
    """Made on the device; of the shapes that `benchmarks.models` has, which are tiny in a dry run."""
    fields = models.LANGUAGE
    sizes = tiny_checkpoint.Sizes(
        hidden=fields["hidden_size"], layers=fields["num_hidden_layers"], heads=fields["num_attention_heads"],
        kv_heads=fields["num_key_value_heads"], head_dim=fields["head_dim"], mlp=fields["intermediate_size"],
        codes=models.CODES, grid=models.GRID[0], cross_width=models.CROSS_WIDTH, prompt_limit=2000,
    )  # fmt: skip
    folder.mkdir(parents=True)
    first = tiny_checkpoint._write_tokenizer(folder, sizes)
    vocabulary = max(fields["vocab_size"], first + models.CODES)
    config = {**tiny_checkpoint._language_config(sizes, first, ()), "vocab_size": vocabulary}
    files = {
        "config.json": config,
        "generation_config.json": {"do_sample": True, "eos_token_id": [258, 256], "pad_token_id": 256},
        "diffusion/transformer/config.json": {"_class_name": "SanaTransformer2DModel", **models.TRANSFORMER},
        "diffusion/vae/config.json": {"_class_name": "AutoencoderDC", **models.DC_AE},
        "diffusion/scheduler/scheduler_config.json": {"flow_shift": 3.0, "num_train_timesteps": 1000},
    }
    for name, content in files.items():
        tiny_checkpoint._write_json(folder / name, content)
    grid = (sizes.grid, sizes.grid)
    with mock.patch.dict(fields, vocab_size=vocabulary), mock.patch.object(models, "GRID", grid):
        made = models.full(bench.device, torch.bfloat16, render=True)
    parts = {
        "": made.language, SANA: made.transformer, VAE: models.autoencoder(made, bench.device),
        # A small one: it is not run, but the grid of the tokens is read from it.
        image_tokenizer.PREFIX: tiny_checkpoint._tower(config, sizes).to(torch.bfloat16),
    }  # fmt: skip
    tensors = {
        prefix + name: tensor.cpu().contiguous()
        for prefix, network in parts.items()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
