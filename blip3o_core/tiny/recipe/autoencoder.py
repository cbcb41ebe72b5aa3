"""Trains the tiny DC-AE: 64 x 64 pixels <-> 16 x 8 x 8 latents.

Most of every image is flat background. A loss of mostly squared error and edges keeps it from dominating the gradient.
Noise is added to the latents in training, because the decoder will get latents from a diffusion model.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...models import autoencoder
from ...seeds import seeded
from ..scenes.rasterize import rasterize
from ..scenes.world import Scene, World
from . import model_config
from .gates import accuracy_by_category, held_back_scenes
from .loop import FitSettings, Report, fit, random_integers, seeded_init
from .quick_world import make_scene

WORLD = World(low_contrast=False, coloured=0.45)
RESCALE_IMAGES = 512
SETTINGS = FitSettings(steps=1200, lr=2.5e-3, muon=0.02, batch=32)


def pixels(scenes) -> torch.Tensor:
    """Scenes -> (B, 3, side, side) in [-1, 1]."""
    drawn = np.stack([rasterize(scene, model_config.SIDE) for scene in scenes])
    return torch.from_numpy(drawn).movedim(-1, 1).float() / 127.5 - 1


def image_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """0.5 L1 + 10 L2 + 0.7 L1 of the image gradients. Errors in images of low contrast weigh more."""
    difference = made.float() - true
    contrast = true.flatten(2).std(-1).mean(1).clamp(0.1, 0.5).view(-1, 1, 1, 1)
    weight = 0.3 / contrast
    edges = (difference.diff(dim=-1).abs() * weight).mean() + (difference.diff(dim=-2).abs() * weight).mean()
    return (difference.abs() * weight).mean() * 0.5 + 10 * (difference.square() * weight).mean() + 0.7 * edges


def train(folder: Path, settings: FitSettings = SETTINGS, report: Report | None = None, world: World = WORLD):
    """Train and return the network, with `scaling_factor` set so that scaled latents have unit variance."""
    with seeded_init(settings.seed):
        network = autoencoder.build(model_config.autoencoder_config())

    def loss(step: int, generator: torch.Generator):
        indices = random_integers(generator, 2**40, settings.batch)
        true = pixels([make_scene(0, "train", index, world) for index in indices])
        latents = network.encode(true).latent
        scale = latents.detach().float().std()
        noise = torch.randn(latents.shape, generator=generator) * scale * 0.05
        made = network.decode(latents + noise).sample
        # Keeps the latents near unit scale, where bf16 is precise enough.
        size = (latents.float().square().mean() - 1).square()
        value = image_loss(made, true) + 0.01 * size
        return value, {"mse": (made.float() - true).square().mean().item()}

    fit(network, loss, settings, folder, ("conv_in.", "conv_out."), report)
    return rescale(network, world)


@torch.no_grad()
def rescale(network, world: World = WORLD):
    """Set `scaling_factor` to one over the standard deviation of latents."""
    scenes = [make_scene(1, "train", index, world) for index in range(RESCALE_IMAGES)]
    latents = network.encode(pixels(scenes)).latent
    network.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return network


@torch.no_grad()
def gate(network, count: int = 800, noise: float = 0.0) -> dict[str, float]:
    """Share of held-back images that are right after encoding and decoding, and their PSNR, by category.

    `noise` is the standard deviation of noise that is added to the scaled latents.
    """
    psnr = {}

    def round_trip(scenes: list[Scene]) -> np.ndarray:
        true = pixels(scenes)
        latents = network.encode(true).latent
        level = noise / network.config.scaling_factor
        made = network.decode(latents + level * torch.randn(latents.shape, generator=seeded(0))).sample
        made = ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)
        error = F.mse_loss(made / 255.0, (true.movedim(1, -1) + 1) / 2)
        psnr[f"psnr {scenes[0].category}"] = float(-10 * torch.log10(error))
        return made.numpy()

    scenes = held_back_scenes(2, count, World(low_contrast=False, coloured=0.45))
    return {**accuracy_by_category(scenes, round_trip), **psnr}
