"""Trains the tiny TA-Tok: a SigLIP tower learns the oracle code of every patch. SimVQ's codebook is given.

Attention starts local: positions are waves in dimensions of their own, and each head of the first three layers looks at
one neighbour. From a random start, a tower this small spends most of its training on finding its neighbours.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.Image import Resampling
from torch import nn

from ...models.image_tokenizer import ImageTokenizer
from ..scenes.rasterize import rasterize
from ..scenes.world import Scene, World
from . import model_config
from .autoencoder import scaled
from .gates import held_back_scenes
from .loop import FitSettings, Report, fit, random_integers, seeded_init
from .model_config import FIRST_EDITION, Sizes
from .oracle_codes import FIRST_OBJECT, batch_codes, codebook
from .quick_world import make_scene

WORLD = World(low_contrast=False, coloured=0.45)
SETTINGS = FitSettings(steps=2600, lr=1.5e-3, muon=0.015, batch=40, ema_decay=0.99)
SHARPNESS = 40.0  # factor on the similarities before the cross-entropy
_WAVES = 32  # dimensions that hold the position
# The neighbours (down, right) that the heads of each layer look at
_NEIGHBOURS = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((-1, -1), (-1, 1), (1, -1), (1, 1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
)
_EXCLUDED = ("embedding", "bottleneck.", "encode_task_layer")


def build(seed: int = 0, sizes: Sizes = FIRST_EDITION) -> ImageTokenizer:
    """A tower whose attention starts local, with the oracle codebook."""
    with seeded_init(seed):
        network = ImageTokenizer(model_config.tokenizer_config(sizes))
    _look_around(network)
    quantiser = network.bottleneck["regularizer"]
    with torch.no_grad():
        quantiser["embedding"].weight.copy_(codebook(sizes))
        quantiser["embedding_proj"].weight.copy_(torch.eye(sizes.code_width))
        quantiser["embedding_proj"].bias.zero_()
    quantiser["embedding"].weight.requires_grad_(False)
    return network


def train(
    folder: Path, settings: FitSettings = SETTINGS, report: Report | None = None, world: World = WORLD
) -> ImageTokenizer:
    sizes = model_config.sizes_of(world)
    network = build(settings.seed, sizes)

    def make_data(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, the numbers of those of their patches that count, and the codes of those."""
        scenes = [make_scene(0, "train", index, world) for index in random_integers(generator, 2**40, settings.batch)]
        codes = batch_codes(scenes, sizes)
        images = augment(squares(scenes, sizes.side), generator)
        # Background is most of every image and soon learnt: a quarter of its patches is enough.
        chosen = (codes >= FIRST_OBJECT) | (torch.rand(codes.shape, generator=generator) < 0.25)
        return images, chosen.flatten().nonzero().flatten(), codes[chosen]

    def loss(data: tuple[torch.Tensor, torch.Tensor, torch.Tensor]):
        images, places, codes = data
        similar = similarities(network, network.features(images).flatten(0, 1)[places])
        exact = float((similar.argmax(-1) == codes).float().mean())
        return F.cross_entropy(SHARPNESS * similar, codes), {"exact": exact}

    fit(network, make_data, loss, settings, folder, _EXCLUDED, report)
    return network


def squares(scenes: Iterable[Scene], side: int = model_config.SIDE) -> torch.Tensor:
    """Scenes -> (B, 3, side, side) in [-1, 1], oblong ones stretched as `images.preprocess` stretches them."""
    return scaled(drawn_squares(scenes, side))


def drawn_squares(scenes: Iterable[Scene], side: int) -> torch.Tensor:
    """The same as (B, side, side, 3) uint8."""
    drawn = (rasterize(scene, side) for scene in scenes)
    stretched = [
        image
        if image.shape[0] == image.shape[1]
        else np.asarray(Image.fromarray(image).resize((side, side), Resampling.BICUBIC))
        for image in drawn
    ]
    return torch.from_numpy(np.stack(stretched))


def similarities(network: ImageTokenizer, features: torch.Tensor) -> torch.Tensor:
    """(..., width) features -> (..., K) cosine similarities. The code is their argmax."""
    quantiser = network.bottleneck["regularizer"]
    queries = F.normalize(network.bottleneck["in_linear"](features).float(), dim=-1)
    keys = F.normalize(quantiser["embedding_proj"](quantiser["embedding"].weight).float(), dim=-1)
    return queries @ keys.T


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add noise, and blur every other image a little: references may have gone through an autoencoder."""
    level = 0.06 * torch.rand(len(images), 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5).clamp(min=0)
    return images + share * (soft - images) + level * torch.randn(images.shape, generator=generator)


@torch.no_grad()
def gate(network: ImageTokenizer, count: int = 800, world: World = WORLD) -> dict[str, float]:
    """On held-back images: share of patches, and of images, whose codes are exactly the oracle's."""
    patches, images, sizes = [], [], model_config.sizes_of(world)
    for scenes in held_back_scenes(2, count, world).values():
        right = network.codes(network.features(squares(scenes, sizes.side))) == batch_codes(scenes, sizes)
        patches.append(right.float().mean())
        images.append(right.all(-1).float().mean())
    return {"patches": float(torch.stack(patches).mean()), "images": float(torch.stack(images).mean())}


@torch.no_grad()
def _look_around(network: ImageTokenizer) -> None:
    config = model_config.tokenizer_config()  # the editions have the same width and heads
    embeddings = network.encoder["embeddings"]
    content, head = config.hidden_size - _WAVES, config.hidden_size // config.num_heads
    embeddings.patch_embedding.weight[content:] = 0
    embeddings.patch_embedding.bias[content:] = 0
    table = embeddings.position_embedding.weight
    table[:, :content] = 0
    row, column = torch.meshgrid(torch.arange(model_config.GRID), torch.arange(model_config.GRID), indexing="ij")
    table[:, content:] = torch.cat([_waves(row.flatten()), _waves(column.flatten())], -1)
    for layer, neighbours in zip(network.encoder["encoder"].layers, _NEIGHBOURS, strict=False):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.1)
            projection.bias.zero_()
        for number, (down, right) in enumerate(neighbours):
            rows = slice(number * head, (number + 1) * head)
            # A wave turned by the step is the wave of the neighbour, so queries and keys agree there.
            turn = torch.block_diag(_turn(down), _turn(right))
            attention.q_proj.weight[rows, content:] += 0.6 * turn
            attention.k_proj.weight[rows, content:] += torch.eye(_WAVES)


def _frequencies() -> torch.Tensor:
    return torch.pi * torch.arange(1, _WAVES // 4 + 1) / model_config.GRID


def _waves(positions: torch.Tensor) -> torch.Tensor:
    angle = positions[:, None] * _frequencies()
    return torch.stack([angle.cos(), angle.sin()], -1).flatten(1)


def _turn(step: int) -> torch.Tensor:
    """(waves, waves) matrix of one axis that turns the waves at p into those at p + step."""
    angle = step * _frequencies()
    blocks = [torch.tensor([[c.cos(), -c.sin()], [c.sin(), c.cos()]]) for c in angle]
    return torch.block_diag(*blocks)


def tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors by published name. The last layer, which encoding never runs, is zeros here."""
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    last = model_config.tokenizer_config().num_layers - 1
    for name in [name for name in state if f"layers.{last - 1}." in name]:
        state[name.replace(f"layers.{last - 1}.", f"layers.{last}.")] = torch.zeros_like(state[name])
    return state
