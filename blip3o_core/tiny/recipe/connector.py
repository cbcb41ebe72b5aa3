"""Trains the connector to turn hidden states into the conditions that SANA was trained on. The two stay as they are.

This is a good start for the joint stage, which trains all three.
"""

from pathlib import Path

import torch

from ...checkpoint import Checkpoint
from ...training.data.collate import Batch, collate
from ...training.data.encoded import EncodedItem
from ...training.losses import hidden_states, image_states
from ...weights.names import CONNECTOR
from ..scenes.captions import caption
from ..scenes.world import World
from .alignment import condition_error
from .language import WORLD
from .loop import FitSettings, Report, fit, random_integers
from .model_config import sizes_of
from .oracle_codes import batch_codes, named_textures
from .quick_world import make_scene

SETTINGS = FitSettings(steps=600, lr=4e-3, muon=0.02, warmup=20)


def train(
    checkpoint: Checkpoint,
    folder: Path,
    settings: FitSettings = SETTINGS,
    report: Report | None = None,
    world: World = WORLD,
):
    """Train and return the connector."""
    model = checkpoint.load_language(torch.float32)
    connector = model.connector.requires_grad_(True)
    encoder, sizes = checkpoint.prompt_encoder, sizes_of(world)

    def make_data(generator: torch.Generator) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        indices = random_integers(generator, 2**40, settings.batch)
        scenes = [make_scene(0, "train", index, world) for index in indices]
        captions = [caption(scene, index) for scene, index in zip(scenes, indices, strict=True)]
        codes = batch_codes(scenes, sizes)
        return collate(encoder, captions, [EncodedItem(row) for row in codes]), codes, named_textures(scenes, sizes)

    def loss(data: tuple[Batch, torch.Tensor, torch.Tensor]):
        batch, codes, textures = data
        with torch.no_grad():
            # Without the scale token: it has no code, so it has no condition to learn.
            states = image_states(hidden_states(model, batch, model), batch)[:, 1:]
        return condition_error(connector(states), codes, textures, sizes), {}

    model.to(settings.device)  # the connector is a part of it
    fit(connector, make_data, loss, settings, folder, (), report)
    model.to("cpu")
    return connector


def tensors(connector) -> dict[str, torch.Tensor]:
    return {CONNECTOR + name: tensor for name, tensor in connector.state_dict().items()}
