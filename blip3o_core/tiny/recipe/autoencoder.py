"""Trains the tiny DC-AE: 128 x 128 pixels <-> 32 x 8 x 8 latents, and oblong images.

Most of every image is flat background. A loss of mostly squared error and edges keeps it from dominating the gradient.
Noise is added to the latents in training, because the decoder will get latents from a diffusion model.

The decoder is then refined alone, as the last of DC-AE's own three phases does (arXiv 2410.10733, section 3.3), with
more words and textures, and errors at objects and letters count more. Latents do not change, so that it may run beside
the stages that use them.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...models import autoencoder
from ...seeds import seeded
from ..judge.judge import textured_pixels
from ..scenes.rasterize import rasterize
from ..scenes.textures import SOLID
from ..scenes.world import TEXT, Scene, World
from . import model_config
from .gates import accuracy_by_category, held_back_scenes
from .loop import FitSettings, Report, fit, random_integers, seeded_init
from .quick_world import make_scene

WORLD = World(low_contrast=False, coloured=0.45)
RESCALE_IMAGES = 512
SETTINGS = FitSettings(steps=3400, lr=2.5e-3, muon=0.02, batch=24)
_EXCLUDED = ("conv_in.", "conv_out.")
REFINED = FitSettings(steps=2300, lr=1e-3, muon=0.01, batch=24, ema_decay=0.995)
_OF_OBJECT = 4.0  # how much the error at objects and letters counts while the decoder is refined


def pixels(scenes, side: int = model_config.SIDE) -> torch.Tensor:
    """Scenes of one canvas -> (B, 3, height, width) in [-1, 1]. `side` is that of a square image."""
    return scaled(drawn(scenes, side))


def drawn(scenes, side: int) -> torch.Tensor:
    """Scenes of one canvas -> (B, height, width, 3) uint8, which travels lightly from one process to another."""
    return torch.from_numpy(np.stack([rasterize(scene, side) for scene in scenes]))


def scaled(images: torch.Tensor) -> torch.Tensor:
    """(B, height, width, 3) uint8 -> (B, 3, height, width) in [-1, 1]."""
    return images.movedim(-1, 1).float() / 127.5 - 1


def encode_images(vae, images: torch.Tensor) -> torch.Tensor:
    """(B, height, width, 3) uint8 -> scaled latents (B, C, h, w) bf16 on the CPU, encoded where the autoencoder is."""
    latents = vae.encode(scaled(images.to(next(vae.parameters()).device))).latent
    return (latents * vae.config.scaling_factor).bfloat16().cpu()


def by_canvas(scenes: Iterable[Scene]) -> list[list[Scene]]:
    """The scenes in groups whose images have one size."""
    groups: dict[tuple[int, int], list[Scene]] = {}
    for scene in scenes:
        groups.setdefault(scene.canvas, []).append(scene)
    return list(groups.values())


def image_loss(made: torch.Tensor, true: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
    """0.5 L1 + 10 L2 + 0.7 L1 of the image gradients. Errors in images of low contrast weigh more.

    `places` (B, 1, height, width): how much each pixel counts; None: all alike.
    """
    difference = made.float() - true
    contrast = true.flatten(2).std(-1).mean(1).clamp(0.1, 0.5).view(-1, 1, 1, 1)
    weight = (0.3 / contrast).expand_as(true[:, :1])
    if places is not None:
        weight = weight * places / places.mean()
    edges = (difference.diff(dim=-1).abs() * weight[..., 1:]).mean()
    edges = edges + (difference.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    return (difference.abs() * weight).mean() * 0.5 + 10 * (difference.square() * weight).mean() + 0.7 * edges


def train(folder: Path, settings: FitSettings = SETTINGS, report: Report | None = None, world: World = WORLD):
    """Train and return the network, with `scaling_factor` set so that scaled latents have unit variance."""
    sizes = model_config.sizes_of(world)
    with seeded_init(settings.seed):
        network = autoencoder.build(model_config.autoencoder_config(sizes=sizes))

    _fit_round_trip(network, folder, settings, report, world)
    return rescale(network, world)


def refine_decoder(network, folder: Path, settings: FitSettings, report: Report | None, world: World):
    """Train the decoder of `network` and leave the encoder as it is."""
    network.encoder.requires_grad_(False)
    network.decoder.requires_grad_(True)
    total = sum(weight for _, weight in world.weights)
    weights = tuple((name, total / 2 if name == TEXT else weight) for name, weight in world.weights)
    world = replace(world, weights=weights, textured=max(world.textured, 0.8))
    _fit_round_trip(network, folder, settings, report, world, _OF_OBJECT)
    return network


def _fit_round_trip(
    network, folder: Path, settings: FitSettings, report: Report | None, world: World, of_object: float = 1.0
) -> None:
    """Train what learns of `network` on images that are encoded and decoded."""
    sizes = model_config.sizes_of(world)

    def make_data(generator: torch.Generator) -> list[tuple[torch.Tensor, ...]]:
        """(images, noise for their latents, where objects are if they count more) of each shape that came up."""
        indices = random_integers(generator, 2**40, settings.batch)
        groups = by_canvas(make_scene(0, "train", index, world) for index in indices)
        made = []
        for group in groups:
            images = drawn(group, sizes.side)
            given = images, torch.randn(latent_shape(images, sizes), generator=generator)
            made.append(given if of_object == 1 else (*given, _of_objects(group, images, sizes.side)))
        return made

    def loss(data: list[tuple[torch.Tensor, ...]]):
        parts = [(len(images) / settings.batch, group_loss(scaled(images), *more)) for images, *more in data]
        value = sum(share * loss for share, (loss, _) in parts)
        return value, {"mse": sum(share * error for share, (_, error) in parts)}

    def group_loss(
        true: torch.Tensor, noise: torch.Tensor, objects: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, float]:
        latents = network.encode(true).latent
        scale = latents.detach().float().std()
        made = network.decode(latents + noise * scale * 0.05).sample
        # Keeps the latents near unit scale, where bf16 is precise enough.
        size = (latents.float().square().mean() - 1).square()
        places = None if objects is None else 1 + (of_object - 1) * objects
        return image_loss(made, true, places) + 0.01 * size, (made.float() - true).square().mean().item()

    fit(network, make_data, loss, settings, folder, _EXCLUDED, report)


def _of_objects(scenes: Iterable[Scene], images: torch.Tensor, side: int) -> torch.Tensor:
    """(B, 1, height, width) bool: pixels of objects and letters in images (B, height, width, 3) of these scenes."""
    grounds = drawn([replace(scene, objects=(), word=None) for scene in scenes], side)
    return (images != grounds).any(-1)[:, None]


def latent_shape(images: torch.Tensor, sizes: model_config.Sizes) -> tuple[int, int, int, int]:
    """(B, height, width, 3) images -> the shape of their latents."""
    count, height, width, _ = images.shape
    return count, sizes.latent_channels, height // sizes.cell, width // sizes.cell


@torch.no_grad()
def rescale(network, world: World = WORLD):
    """Set `scaling_factor` to one over the standard deviation of latents."""
    scenes = [make_scene(1, "train", index, replace(world, oblong=0.0)) for index in range(RESCALE_IMAGES)]
    latents = network.encode(pixels(scenes, model_config.sizes_of(world).side)).latent
    network.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return network


@torch.no_grad()
def gate(network, count: int = 800, noise: float = 0.0, world: World = WORLD) -> dict[str, float]:
    """Share of held-back images that are right after encoding and decoding, and their PSNR, by category.

    `noise` is the standard deviation of noise that is added to the scaled latents. With textures,
    `surfaces` is the error, of 255, of textured pixels, and `flat` what it would be without any texture.
    """
    side = model_config.sizes_of(world).side
    psnr, errors, flat = {}, [], []

    def round_trip(scenes: list[Scene]) -> list[np.ndarray]:
        made = [image for group in by_canvas(scenes) for image in _round_trip(network, group, side, noise)]
        true = [rasterize(scene, side) for scene in scenes]
        squared = [((a.astype(np.float32) - b) ** 2).mean() for a, b in zip(made, true, strict=True)]
        psnr[f"psnr {scenes[0].category}"] = float(10 * np.log10(255**2 / np.mean(squared)))
        for scene, image, right in zip(scenes, made, true, strict=True):
            where = textured_pixels(scene, side)
            errors.extend(np.abs(image.astype(np.float32) - right)[where].mean(-1))
            flat.extend(np.abs(rasterize(without_textures(scene), side).astype(np.float32) - right)[where].mean(-1))
        return made

    result = {**accuracy_by_category(held_back_scenes(2, count, world), round_trip), **psnr}
    return result | ({"surfaces": float(np.mean(errors)), "flat": float(np.mean(flat))} if errors else {})


def without_textures(scene: Scene) -> Scene:
    objects = tuple(replace(obj, texture=SOLID) for obj in scene.objects)
    return replace(scene, objects=objects, texture=SOLID)


def _round_trip(network, scenes: list[Scene], side: int, noise: float) -> np.ndarray:
    """Scenes of one canvas -> (B, height, width, 3) uint8, encoded and decoded."""
    latents = network.encode(pixels(scenes, side)).latent
    level = noise / network.config.scaling_factor
    made = network.decode(latents + level * torch.randn(latents.shape, generator=seeded(0))).sample
    return ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
