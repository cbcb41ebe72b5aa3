"""Trains the tiny Qwen3 to write images as codes: cross-entropy on image tokens, no diffusion yet."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...checkpoint import Checkpoint
from ...decoding.engine import decode
from ...decoding.prefill import Prompts
from ...decoding.sampling import Sampling
from ...training.data.collate import collate
from ...training.data.encoded import EncodedItem
from ...training.joint_model import JointModel
from ...training.losses import hidden_states, token_loss
from ...weights.names import CONNECTOR
from ..scenes.captions import caption
from ..scenes.world import Scene, World
from .gates import accuracy_by_category, held_back_scenes
from .loop import FitSettings, Report, fit, random_integers
from .model_config import sizes_of
from .oracle_codes import batch_codes, codes_to_image
from .quick_world import make_scene

# Categories that are harder to lay out are more frequent.
WORLD = World(
    low_contrast=False,
    coloured=0.35,
    weights=(
        ("single_object", 0.7),
        ("two_object", 1.1),
        ("counting", 1.5),
        ("colors", 0.7),
        ("position", 1.6),
        ("color_attr", 2.0),
        ("background", 1.4),
        ("size", 1.4),
    ),
)
SETTINGS = FitSettings(steps=2200, lr=1.5e-3, muon=0.02, warmup=50, ema_decay=0.998, final_lr=0.02)
_EXCLUDED = ("embed_tokens", "lm_head", CONNECTOR.removeprefix("model."))


def train(
    checkpoint: Checkpoint,
    folder: Path,
    settings: FitSettings = SETTINGS,
    report: Report | None = None,
    world: World = WORLD,
):
    """Train and return the language model. Its connector does not change."""
    model = checkpoint.load_language(torch.float32)
    model.requires_grad_(True)
    model.connector.requires_grad_(False)
    joint_model = JointModel(model, torch.nn.Identity())
    encoder, sizes = checkpoint.prompt_encoder, sizes_of(world)

    def loss(step: int, generator: torch.Generator):
        indices = random_integers(generator, 2**40, settings.batch)
        scenes = [make_scene(0, "train", index, world) for index in indices]
        captions = [caption(scene, index, plain=index % 10 < 7) for scene, index in zip(scenes, indices, strict=True)]
        batch = collate(encoder, captions, [EncodedItem(codes) for codes in batch_codes(scenes, sizes)])
        hidden = hidden_states(model, batch, joint_model.run_language)
        return token_loss(model, hidden, batch.labels), {}

    # With a mask, the CPU's fused attention has a backward pass four times as slow as plain matrix products.
    with sdpa_kernel(SDPBackend.MATH):
        fit(model, loss, settings, folder, _EXCLUDED, report)
    return model


@torch.no_grad()
def gate(
    checkpoint: Checkpoint,
    model,
    count: int = 160,
    seed: int = 0,
    sampling: Sampling | None = None,
    world: World = World(low_contrast=False),
) -> dict:
    """Share of held-back captions whose generated codes are right, drawn without any network. They say no textures."""
    encoder, sampling = checkpoint.prompt_encoder, sampling or Sampling(temperature=1.0, top_p=0.95)
    sizes = sizes_of(world)

    def write(scenes: list[Scene]) -> list[np.ndarray]:
        prompts = [encoder.encode(caption(scene, index, plain=True)) for index, scene in enumerate(scenes)]
        ids = decode(model, Prompts(prompts), [seed * 100_000 + index for index in range(len(scenes))], sampling).ids
        rows = (ids - encoder.vocabulary.image_start).numpy()
        return [codes_to_image(row, scene.canvas, sizes) for row, scene in zip(rows, scenes, strict=True)]

    return accuracy_by_category(held_back_scenes(3, count, world), write, textures=False)


def tensors(model) -> dict[str, torch.Tensor]:
    """The tensors by published name, without the connector's."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(CONNECTOR)}
