"""Trains the tiny SANA to use references: edits and other images from true codes, with the latents of what is edited.

The condition is the renderer's, of the codes alone, because instructions name no textures: those come from the
references. A reference comes in two ways, as tokens of cross-attention and beside the noise. Some steps leave one of
them out, so that each serves alone. The null condition is that of inference from here on, which the connector has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...checkpoint import Checkpoint
from ...diffusion.reference_conditioning import append_reference_tokens, predict_side_by_side, reference_tokens
from ...models.connector import connect
from ...seeds import seeded
from ...training.losses import add_noise
from ...weights.names import REFERENCE_CONNECTOR
from ..scenes.edits import Edit
from ..scenes.world import World
from . import renderer
from .ahead import made_ahead
from .autoencoder import drawn, encode_images
from .language import EDITS, Edits
from .loop import FitSettings, Report, fit, random_integers
from .model_config import Sizes, sizes_of
from .oracle_codes import batch_codes

SETTINGS = FitSettings(steps=2400, lr=1.5e-3, muon=0.012, warmup=30, ema_decay=0.996, final_lr=0.02)
_EDITS = 0.6  # of the steps
_ALONE = 0.15  # of the steps with references have them as tokens only, as many beside the noise only
_BATCH = 100


class _Network(nn.Module):
    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.transformer = checkpoint.load_transformer(torch.float32)
        language = checkpoint.load_language(torch.float32)
        self.connector = language.reference_connector
        self.requires_grad_(True)
        with torch.no_grad():
            null = connect(language.connector, torch.zeros(1, 1, language.config.hidden_size))[1]
        self.register_buffer("null", null)  # (1, 1, width)


@dataclass(frozen=True)
class _Group:
    """Images of one shape with as many references."""

    meant: torch.Tensor  # (N, 2, H*W), codes and named textures
    latents: torch.Tensor  # (N, 1 + R, C, h, w), of the image and of its references


def train(
    checkpoint: Checkpoint,
    folder: Path,
    settings: FitSettings = SETTINGS,
    report: Report | None = None,
    world: World = renderer.WORLD,
    edits: World = EDITS,
) -> dict[str, torch.Tensor]:
    """Train the transformer and the reference connector of a checkpoint that has one -> their tensors by name."""
    network, sizes = _Network(checkpoint), sizes_of(world)
    encoded = renderer.encode(checkpoint, settings, _count(settings, 1 - _EDITS), world)
    plain = [_Group(meant, latents[:, None]) for meant, latents in encoded]
    edited = _encode_edits(checkpoint, settings, _count(settings, _EDITS), edits, sizes)
    groups, shares = plain + edited, torch.cat([(1 - _EDITS) * _shares(plain), _EDITS * _shares(edited)])

    def make_data(generator: torch.Generator) -> tuple:
        group = groups[int(torch.multinomial(shares, 1, generator=generator))]
        references = group.latents.shape[1] - 1
        count = settings.batch * 2 // (2 + references)  # of about as many places
        rows = random_integers(generator, len(group.meant), count)
        clean = group.latents[rows].float()
        noise = torch.randn(clean[:, 0].shape, generator=generator)
        dropped = torch.rand(count, 1, 1, generator=generator) < renderer.DROPPED
        times = renderer.timesteps(count, generator)
        error = renderer.condition_noise(count, 1 + group.meant.shape[-1], sizes.cross_width, generator)
        return group.meant[rows], clean, noise, dropped, times, error, float(torch.rand(1, generator=generator))

    def loss(data: tuple) -> tuple[torch.Tensor, dict[str, float]]:
        meant, clean, noise, dropped, times, error, way = data
        codes, textures = meant.unbind(1)
        context = renderer.oracle_conditions(codes, textures, sizes=sizes) + error
        context = torch.where(dropped, network.null, context)
        x, velocity = add_noise(clean[:, 0], noise, times)
        references = clean[:, 1:]
        if references.shape[1] and way >= _ALONE:
            tokens = reference_tokens(network.connector, references).masked_fill(dropped, 0)
            context = append_reference_tokens(context, tokens)[0]
        inputs = {"encoder_hidden_states": context, "timestep": times}
        if references.shape[1] and way < 1 - _ALONE:
            predicted = predict_side_by_side(network.transformer, x, list(references.unbind(1)), **inputs)
        else:
            predicted = network.transformer(x, return_dict=False, **inputs)[0]
        return renderer.weighted_error(predicted, velocity, codes, textures), {}

    fit(network, make_data, loss, settings, folder, renderer.EXCLUDED, report)
    connector = network.connector.state_dict()
    return renderer.tensors(network.transformer) | {REFERENCE_CONNECTOR + name: t for name, t in connector.items()}


def _shares(groups: Sequence[_Group]) -> torch.Tensor:
    """The share of the images that each group has."""
    counts = torch.tensor([float(len(group.meant)) for group in groups])
    return counts / counts.sum()


def _count(settings: FitSettings, share: float) -> int:
    return max(1, round(renderer.IMAGES_PER_STEP * settings.steps * share))


@torch.no_grad()
def _encode_edits(
    checkpoint: Checkpoint, settings: FitSettings, count: int, world: World, sizes: Sizes
) -> list[_Group]:
    vae, source = checkpoint.load_autoencoder(torch.float32).to(settings.device), Edits(world)
    found: dict[tuple, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def draw(first: int) -> list[tuple[tuple, torch.Tensor, list[torch.Tensor]]]:
        edits = [edit for _, edit in source.draw(seeded(settings.seed * 1_000_003 + first), min(_BATCH, count - first))]
        groups: dict[tuple, list[Edit]] = {}
        for edit in edits:
            groups.setdefault((edit.target.canvas, len(edit.sources)), []).append(edit)
        return [(kind, *_codes_and_images(group, sizes)) for kind, group in groups.items()]

    for groups in made_ahead(draw, range(0, count, _BATCH), settings.workers):
        for kind, codes, images in groups:
            meant, latents = found.setdefault(kind, ([], []))
            meant.append(torch.stack([codes, torch.zeros_like(codes)], 1))  # instructions name no textures
            with torch.autocast(torch.device(settings.device).type, torch.bfloat16):
                latents.append(torch.stack([encode_images(vae, batch) for batch in images], 1))
    return [_Group(torch.cat(meant), torch.cat(latents)) for meant, latents in found.values()]


def _codes_and_images(edits: Sequence[Edit], sizes: Sizes) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The codes of the edited images; they, and their references one after the other, as pixels."""
    shown = [[edit.target for edit in edits], *(list(s) for s in zip(*(edit.sources for edit in edits), strict=True))]
    return batch_codes(shown[0], sizes), [drawn(scenes, sizes.side) for scenes in shown]
