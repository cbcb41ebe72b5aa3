"""The tiny DC-AE: 64 x 64 pixels <-> 16 x 8 x 8 latents.

Flat ground is most of every picture, so a loss that is mostly squared error and edges keeps it from ruling the
gradient. Latents are disturbed in training: the decoder will get them from a diffusion model.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...models import autoencoder
from ...seeds import seeded
from ..judge.judge import judge_image
from ..scenes.rasterize import rasterize
from ..scenes.spec import spec_of
from ..scenes.world import CATEGORIES, World
from . import model_config
from .loop import FitSettings, Report, fit, random_integers, seeded_init
from .quick_world import make_scene

WORLD = World(low_contrast=False, coloured=0.45)
SETTINGS = FitSettings(steps=1200, lr=2.5e-3, muon=0.02, batch=32)


def pixels(scenes) -> torch.Tensor:
    """(B, 3, side, side) in [-1, 1]."""
    drawn = np.stack([rasterize(scene, model_config.SIDE) for scene in scenes])
    return torch.from_numpy(drawn).movedim(-1, 1).float() / 127.5 - 1


def picture_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """0.5 L1 + 10 L2 + 0.7 of the gradient's difference. Errors in a picture of little contrast weigh more."""
    difference = made.float() - true
    contrast = true.flatten(2).std(-1).mean(1).clamp(0.1, 0.5).view(-1, 1, 1, 1)
    weight = 0.3 / contrast
    edges = (difference.diff(dim=-1).abs() * weight).mean() + (difference.diff(dim=-2).abs() * weight).mean()
    return (difference.abs() * weight).mean() * 0.5 + 10 * (difference.square() * weight).mean() + 0.7 * edges


def train(folder: Path, settings: FitSettings = SETTINGS, report: Report | None = None, world: World = WORLD):
    """-> the network, with `scaling_factor` set so that scaled latents have unit variance."""
    with seeded_init(settings.seed):
        network = autoencoder.build(model_config.autoencoder_config())

    def loss(step: int, generator: torch.Generator):
        indices = random_integers(generator, 2**40, settings.batch)
        true = pixels([make_scene(0, "train", index, world) for index in indices])
        latents = network.encode(true).latent
        scale = latents.detach().float().std()
        noise = torch.randn(latents.shape, generator=generator) * scale * 0.05
        made = network.decode(latents + noise).sample
        # Keeps the scale of latents where bf16 and the decoder are at ease.
        size = (latents.float().square().mean() - 1).square()
        value = picture_loss(made, true) + 0.01 * size
        return value, {"mse": (made.float() - true).square().mean().item()}

    fit(network, loss, settings, folder, ("conv_in.", "conv_out."), report)
    return rescale(network, world)


@torch.no_grad()
def rescale(network, world: World = WORLD, count: int = 512):
    """Set `scaling_factor` to one over the standard deviation of latents."""
    scenes = [make_scene(1, "train", index, world) for index in range(count)]
    latents = network.encode(pixels(scenes)).latent
    network.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return network


@torch.no_grad()
def gate(network, count: int = 800, noise: float = 0.0) -> dict[str, float]:
    """Share of held-back pictures that are right after the round trip, by category. `noise`: on scaled latents."""
    world, shares = World(low_contrast=False, coloured=0.45), {}
    for category in CATEGORIES:
        scenes = [make_scene(2, "held_back", index, world, category) for index in range(count // len(CATEGORIES))]
        true = pixels(scenes)
        latents = network.encode(true).latent
        level = noise / network.config.scaling_factor
        made = network.decode(latents + level * torch.randn(latents.shape, generator=seeded(0))).sample
        made = ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
        right = [judge_image(picture, spec_of(scene)).strict for picture, scene in zip(made, scenes, strict=True)]
        shares[category] = sum(right) / len(right)
        shares[f"psnr {category}"] = float(
            -10 * torch.log10(F.mse_loss(torch.from_numpy(made) / 255.0, (true.movedim(1, -1) + 1) / 2))
        )
    shares["mean"] = sum(shares[category] for category in CATEGORIES) / len(CATEGORIES)
    return shares
