"""The connector learns to say, from hidden states, what SANA was taught to draw from; both ends stay as they are.

A good start for the joint stage, which lets all three move.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from ...checkpoint.checkpoint import Checkpoint
from ...decoding.prefill import causal_mask
from ...training.losses import collate
from ...weights.names import CONNECTOR
from ..scenes.captions import caption
from ..scenes.world import World
from .image_tokenizer import batch_codes
from .language import WORLD
from .loop import FitSettings, Report, fit, random_integers
from .quick_world import make_scene
from .renderer import oracle_conditions

SETTINGS = FitSettings(steps=400, lr=4e-3, muon=0.02, warmup=20)


def train(
    checkpoint: Checkpoint,
    folder: Path,
    settings: FitSettings = SETTINGS,
    report: Report | None = None,
    world: World = WORLD,
):
    """-> the connector."""
    model = checkpoint.load_language(torch.float32)
    connector = model.connector.requires_grad_(True)
    encoder = checkpoint.prompt_encoder

    def loss(step: int, generator: torch.Generator):
        indices = random_integers(generator, 2**40, settings.batch)
        scenes = [make_scene(0, "train", index, world) for index in indices]
        captions = [caption(scene, index) for scene, index in zip(scenes, indices, strict=True)]
        codes = batch_codes(scenes)
        batch = collate(encoder, captions, codes, torch.empty(settings.batch, 0))
        with torch.no_grad():
            embeds = model.embed(batch.ids, torch.float32)
            positions = torch.arange(batch.ids.shape[1])[None].expand_as(batch.ids)
            hidden = model(embeds, positions, causal_mask(batch.attention_mask))
            place = batch.scale_positions[:, None] + 1 + torch.arange(batch.num_tokens)
            states = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
        # The scale token has no piece to speak of.
        return F.mse_loss(connector(states).float(), oracle_conditions(codes)[:, 1:]), {}

    fit(connector, loss, settings, folder, (), report)
    return connector


def tensors(connector) -> dict[str, torch.Tensor]:
    return {CONNECTOR + name: tensor for name, tensor in connector.state_dict().items()}
