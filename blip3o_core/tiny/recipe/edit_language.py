"""Trains the tiny Qwen3 to write edits: cross-entropy on image tokens, before the general trainer trains all parts.

A layer is added in front of the others. Its heads start by looking at the reference's code at the position of the next
token and around it, which is at the same distance in every prompt. Its outputs start at zero, so that at first it
changes nothing.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...checkpoint import Checkpoint
from ...files import write_json
from ...training.data.collate import Batch, collate
from ...training.data.packed import open_pack
from ...training.joint_model import JointModel
from ...training.losses import hidden_states, token_loss
from . import init
from .language import plain_attention
from .loop import FitSettings, Report, fit, random_integers, seeded_init

SETTINGS = FitSettings(steps=2400, lr=5e-4, muon=0.008, warmup=50, ema_decay=0.997, final_lr=0.02, save_every=100)
EDIT_ROWS, IMAGE_ROWS = 32, 16  # rows of a batch: without text to image, the model forgets it
_EXCLUDED = ("embed_tokens", "lm_head", "diffusion_connector")


def add_layer(source: Checkpoint, folder: Path) -> None:
    """Write `source` with one more layer as the new `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source.folder, folder)
    config = {**source.config, "num_hidden_layers": source.config["num_hidden_layers"] + 1}
    with seeded_init(0):
        layer = init.edit_layer(config, init.ONE_REFERENCE)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.startswith("model.layers."):
            _, _, number, rest = name.split(".", 3)
            name = f"model.layers.{int(number) + 1}.{rest}"
        tensors[name] = tensor
    tensors |= {f"model.layers.0.{name}": tensor.contiguous() for name, tensor in layer.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)


def train(
    checkpoint: Checkpoint,
    packs: tuple[list[Path], list[Path]],
    folder: Path,
    settings: FitSettings,
    report: Report | None = None,
):
    """Train and return the language model. Its connector does not change. `packs`: edits, and images with captions."""
    model = checkpoint.load_language(torch.float32)
    model.requires_grad_(True)
    model.connector.requires_grad_(False)
    joint_model = JointModel(model, torch.nn.Identity())
    edits, images = ([item for path in paths for item in open_pack(path)] for paths in packs)

    def make_data(generator: torch.Generator) -> Batch:
        chosen = [edits[k] for k in random_integers(generator, len(edits), EDIT_ROWS)]
        chosen += [images[k] for k in random_integers(generator, len(images), IMAGE_ROWS)]
        captions = random_integers(generator, 2**40, len(chosen))
        texts = [item.captions[k % len(item.captions)] for item, k in zip(chosen, captions, strict=True)]
        return collate(checkpoint.prompt_encoder, texts, [item.encode() for item in chosen])

    def loss(batch: Batch):
        hidden = hidden_states(model, batch, joint_model.run_language)
        edit_loss = token_loss(model, hidden[:EDIT_ROWS], batch.labels[:EDIT_ROWS])
        image_loss = token_loss(model, hidden[EDIT_ROWS:], batch.labels[EDIT_ROWS:])
        share = EDIT_ROWS / (EDIT_ROWS + IMAGE_ROWS)
        value = share * edit_loss + (1 - share) * image_loss
        return value, {"edits": edit_loss.item(), "images": image_loss.item()}

    with plain_attention(settings):
        fit(model, make_data, loss, settings, folder, _EXCLUDED, report)
    return model
