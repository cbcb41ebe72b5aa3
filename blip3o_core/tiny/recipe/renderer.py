"""Trains the tiny SANA to render true codes, before there are hidden states to condition on.

The condition of a code is what its words mean and where it lies, and which texture the caption names there, scaled as
the connector's norm will scale it. The connector is trained later to produce the same from hidden states, never quite:
so half of the conditions are inexact here, too.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...checkpoint import Checkpoint
from ...diffusion import sampler as diffusion
from ...models import autoencoder as dc_ae
from ...seeds import seeded
from ...training.losses import add_noise
from ...weights.names import SANA
from ..scenes.textures import KINDS
from ..scenes.world import UNITS, Scene, World, with_named_textures
from .ahead import made_ahead
from .autoencoder import by_canvas, drawn, encode_images
from .gates import accuracy_by_category, held_back_scenes
from .init import POSITION_DIMS, position_waves
from .loop import FitSettings, Report, fit, random_integers
from .model_config import FIRST_EDITION, Sizes, sizes_of
from .oracle_codes import FIRST_OBJECT, batch_codes, codebook, named_textures
from .quick_world import make_scene

WORLD = World(low_contrast=False, coloured=0.4)
SETTINGS = FitSettings(steps=11900, lr=1.5e-3, muon=0.015, warmup=30, ema_decay=0.995, final_lr=0.02)
IMAGES_PER_STEP = 16  # encoded images, for batches of 48: each is used about three times, with other noise
DROPPED = 0.1  # share of rows that get the null condition: zeros here
_NOISE = 0.6  # largest standard deviation of what is added to half of the conditions, whose own is 2.3
_OF_OBJECT, _OF_TEXTURE = 4.0, 2.0  # how much the error at pieces of objects, and at named textures, counts
_SAID = 96  # dimensions that say something; the rest of a wider condition is zero
# Of ten scenes those that name their textures, whatever their captions do; share of scenes that have any
_NAMED, _TEXTURED = 6, 0.85
_TEXTURE = 0.7  # length of what a texture adds to a meaning of length 1
_RMS = 5.5**0.5  # root mean square that the connector's norm starts with
EXCLUDED = ("attn2.to_q", "attn2.to_k", "caption_", "patch_embed", "proj_out", "time_embed", "scale_shift_table")


def oracle_conditions(
    codes: torch.Tensor, textures: torch.Tensor | None = None, *, sizes: Sizes = FIRST_EDITION
) -> torch.Tensor:
    """(B, H*W) codes -> (B, 1 + H*W, width). The scale token's condition is zero.

    `textures`: (B, H*W), those that captions name, as `named_textures` numbers them; None: they name none.
    """
    width = _SAID - POSITION_DIMS
    spread = torch.linalg.qr(torch.randn(width, sizes.code_width, generator=seeded(0)))[0]
    meanings = codebook(sizes).to(codes.device)[codes]
    if textures is not None:  # in the last dimensions, which no code uses in the second edition
        names = F.one_hot(textures, len(KINDS) + 1)[..., 1:].to(meanings)
        meanings = F.normalize(meanings + _TEXTURE * F.pad(names, (sizes.code_width - len(KINDS), 0)), dim=-1)
    meanings = meanings @ spread.T.to(codes.device)
    positions = position_waves().to(codes.device).expand(len(codes), -1, -1)
    positions = positions * (positions.shape[-1] / 2) ** -0.5
    given = torch.cat([positions, meanings], -1)
    given = given * (_RMS * (_SAID / 2) ** 0.5)
    return F.pad(given, (0, sizes.cross_width - _SAID, 1, 0))


@torch.no_grad()
def encode(
    checkpoint: Checkpoint, settings: FitSettings, count: int, world: World = WORLD
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of `count` training images, for each of their shapes: codes and named textures (N, 2, H*W), latents (N, C, h, w).

    The latents are scaled, in bfloat16.
    """
    vae, sizes = checkpoint.load_autoencoder(torch.float32).to(settings.device), sizes_of(world)
    found: dict[tuple[int, int], tuple[list, list]] = {}

    def draw(first: int) -> list[tuple[tuple[int, int], torch.Tensor, torch.Tensor]]:
        scenes = [_scene(index, world) for index in range(first, min(first + 200, count))]
        groups = by_canvas(scenes)
        return [(group[0].canvas, _codes_and_textures(group, sizes), drawn(group, sizes.side)) for group in groups]

    for groups in made_ahead(draw, range(0, count, 200), settings.workers):
        for canvas, new_meant, images in groups:
            meant, latents = found.setdefault(canvas, ([], []))
            meant.append(new_meant)
            with torch.autocast(torch.device(settings.device).type, torch.bfloat16):
                latents.append(encode_images(vae, images))
    return [(torch.cat(meant), torch.cat(latents)) for meant, latents in found.values()]


def _scene(index: int, world: World) -> Scene:
    """A training scene. In a world with textures most scenes have some and name them; captions name too few."""
    if not world.textured:
        return make_scene(0, "train", index, world)
    scene = make_scene(0, "train", index, replace(world, textured=_TEXTURED))
    return with_named_textures(scene) if index % 10 < _NAMED else scene


def _codes_and_textures(scenes: list[Scene], sizes: Sizes) -> torch.Tensor:
    """(B, 2, H*W): codes and named textures."""
    return torch.stack([batch_codes(scenes, sizes), named_textures(scenes, sizes)], 1)


def timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """(B,) in 1..1000: three in ten anywhere, the others around the middle, where shapes are decided."""
    middle = torch.sigmoid(0.3 + torch.randn(count, generator=generator))
    anywhere = torch.rand(count, generator=generator)
    chosen = torch.where(torch.rand(count, generator=generator) < 0.3, anywhere, middle)
    return (1000 * chosen).clamp(1, 1000)


def condition_noise(count: int, places: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """(count, places, width): what is added to conditions, as far from them as a trained connector's may be."""
    size = _NOISE * torch.rand(count, 1, 1, generator=generator)
    size = size.masked_fill(torch.rand(count, 1, 1, generator=generator) < 0.5, 0)
    return size * torch.randn(count, places, width, generator=generator)


def weighted_error(
    predicted: torch.Tensor, velocity: torch.Tensor, codes: torch.Tensor, textures: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of velocities (B, C, h, w) of images with these codes and named textures (B, H*W).

    Nine places of ten are ground. Where all counted alike, SANA left the gradients of objects out.
    """
    weights = (1 + (_OF_OBJECT - 1) * (codes >= FIRST_OBJECT)) * (1 + (_OF_TEXTURE - 1) * (textures > 0))
    side = math.isqrt(codes.shape[1])
    weights = F.interpolate(weights.view(-1, 1, side, side), size=velocity.shape[-2:], mode="area")
    return ((predicted.float() - velocity).square() * weights).sum() / (weights.sum() * velocity.shape[1])


def train(
    checkpoint: Checkpoint,
    folder: Path,
    settings: FitSettings = SETTINGS,
    report: Report | None = None,
    world: World = WORLD,
):
    """Train and return the transformer."""
    transformer = checkpoint.load_transformer(torch.float32)
    transformer.requires_grad_(True)
    groups = encode(checkpoint, settings, IMAGES_PER_STEP * settings.steps, world)
    shares = torch.tensor([len(meant) for meant, _ in groups], dtype=torch.float32)
    sizes = sizes_of(world)
    inexact = sizes != FIRST_EDITION

    def make_data(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Codes and textures, which rows see no condition, latents, noise, timesteps, what makes conditions inexact."""
        # The images of a batch have one shape: each shape comes up as often as its images do.
        group = int(torch.multinomial(shares, 1, generator=generator)) if len(groups) > 1 else 0
        meant, latents = groups[group]
        rows = random_integers(generator, len(meant), settings.batch)
        dropped = torch.rand(settings.batch, 1, 1, generator=generator) < DROPPED
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        times = timesteps(settings.batch, generator)
        places = 1 + meant.shape[-1]
        error = condition_noise(settings.batch, places, sizes.cross_width, generator) if inexact else torch.zeros(1)
        return meant[rows], dropped, clean, noise, times, error

    def loss(data: tuple[torch.Tensor, ...]):
        meant, dropped, clean, noise, times, error = data
        given = (oracle_conditions(*meant.unbind(1), sizes=sizes) + error).masked_fill(dropped, 0)
        x, velocity = add_noise(clean, noise, times)
        predicted = transformer(x, encoder_hidden_states=given, timestep=times, return_dict=False)[0]
        if sizes == FIRST_EDITION:
            return F.mse_loss(predicted.float(), velocity), {}
        return weighted_error(predicted, velocity, *meant.unbind(1)), {}

    fit(transformer, make_data, loss, settings, folder, EXCLUDED, report)
    return transformer


@torch.no_grad()
def gate(
    checkpoint: Checkpoint,
    count: int = 160,
    steps: int = 12,
    guidance: float = 1.0,
    world: World = World(low_contrast=False),
) -> dict:
    """Share of held-back scenes whose images, rendered from their true codes and named textures, are right."""
    vae, transformer = checkpoint.load_autoencoder(torch.float32), checkpoint.load_transformer(torch.float32)
    sizes = sizes_of(world)
    schedule = diffusion.sigmas(steps, checkpoint.shift)

    def render(scenes: list[Scene]) -> list[np.ndarray]:
        return [image for group in by_canvas(scenes) for image in render_group(group)]

    def render_group(scenes: list[Scene]) -> np.ndarray:
        given = oracle_conditions(*_codes_and_textures(scenes, sizes).unbind(1), sizes=sizes)
        rows, columns = (side * sizes.side // (UNITS * sizes.cell) for side in reversed(scenes[0].canvas))
        noise = diffusion.initial_noise((sizes.latent_channels, rows, columns), list(range(len(scenes))))
        conditioning = diffusion.Conditioning(given, torch.zeros_like(given[:1]))
        latents = diffusion.sample(transformer, noise, conditioning, schedule, diffusion.GuidanceSchedule(guidance))
        return dc_ae.decode(vae, latents / vae.config.scaling_factor).numpy()

    return accuracy_by_category(held_back_scenes(3, count, world), render)


def tensors(transformer) -> dict[str, torch.Tensor]:
    """The tensors by published name. The table of positions is not part of a checkpoint."""
    return {SANA + name: t for name, t in transformer.state_dict().items() if not name.endswith("pos_embed")}
