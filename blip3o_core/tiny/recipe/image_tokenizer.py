"""The tiny TA-Tok: a SigLIP tower learns to name every patch's piece; SimVQ's book starts as what the names mean.

Attention starts local: position waves in dimensions of their own, and every head of the first three layers looks at one
neighbour. Started at random, a tower this small spends most of its training on finding its neighbours.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ...models.image_tokenizer import ImageTokenizer
from ..scenes.world import CATEGORIES, World
from . import model_config
from .autoencoder import pixels
from .loop import FitSettings, Report, fit, random_integers, seeded_init
from .oracle_codes import FIRST_OBJECT, codebook, scene_codes
from .quick_world import make_scene

WORLD = World(low_contrast=False, coloured=0.45)
SETTINGS = FitSettings(steps=2200, lr=1.5e-3, muon=0.015, batch=40, ema_decay=0.99)
SHARPNESS = 40.0  # of the similarities that the cross-entropy sees
_WAVES = 32  # dimensions that hold the position
# (down, right) that the heads of a layer look at
_LOOKS = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((-1, -1), (-1, 1), (1, -1), (1, 1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
)
_EXCLUDED = ("embedding", "bottleneck.", "encode_task_layer")


def build(seed: int = 0) -> ImageTokenizer:
    """A tower with the local start and the book of pieces."""
    with seeded_init(seed):
        network = ImageTokenizer(model_config.TOWER)
    _look_around(network)
    quantiser = network.bottleneck["regularizer"]
    with torch.no_grad():
        quantiser["embedding"].weight.copy_(codebook())
        quantiser["embedding_proj"].weight.copy_(torch.eye(model_config.CODE_WIDTH))
        quantiser["embedding_proj"].bias.zero_()
    quantiser["embedding"].weight.requires_grad_(False)
    return network


def train(
    folder: Path, settings: FitSettings = SETTINGS, report: Report | None = None, world: World = WORLD
) -> ImageTokenizer:
    network = build(settings.seed)

    def loss(step: int, generator: torch.Generator):
        scenes = [make_scene(0, "train", index, world) for index in random_integers(generator, 2**40, settings.batch)]
        wanted = batch_codes(scenes)
        seen = augment(pixels(scenes), generator)
        # Ground is most of every picture and soon learnt: a quarter of it is enough.
        chosen = (wanted >= FIRST_OBJECT) | (torch.rand(wanted.shape, generator=generator) < 0.25)
        similar = similarities(network, network.features(seen)[chosen])
        value = F.cross_entropy(SHARPNESS * similar, wanted[chosen])
        return value, {"exact": float((similar.argmax(-1) == wanted[chosen]).float().mean())}

    fit(network, loss, settings, folder, _EXCLUDED, report)
    return network


def similarities(network: ImageTokenizer, features: torch.Tensor) -> torch.Tensor:
    """(..., width) features -> (..., K) cosines, of which a code is the argmax."""
    quantiser = network.bottleneck["regularizer"]
    wanted = F.normalize(network.bottleneck["in_linear"](features).float(), dim=-1)
    known = F.normalize(quantiser["embedding_proj"](quantiser["embedding"].weight).float(), dim=-1)
    return wanted @ known.T


def batch_codes(scenes) -> torch.Tensor:
    """(B, H*W)."""
    return torch.stack([torch.from_numpy(scene_codes(scene)) for scene in scenes])


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Some noise, and every other picture a little soft: references may have gone through an autoencoder."""
    level = 0.06 * torch.rand(len(images), 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5).clamp(min=0)
    return images + share * (soft - images) + level * torch.randn(images.shape, generator=generator)


@torch.no_grad()
def gate(network: ImageTokenizer, count: int = 800) -> dict[str, float]:
    """On held-back pictures: share of patches, and of pictures, whose codes are exactly their pieces."""
    exact, whole = [], []
    for category in CATEGORIES:
        scenes = [make_scene(2, "held_back", i, WORLD, category) for i in range(count // len(CATEGORIES))]
        right = network.codes(network.features(pixels(scenes))) == batch_codes(scenes)
        exact.append(right.float().mean())
        whole.append(right.all(-1).float().mean())
    return {"patches": float(torch.stack(exact).mean()), "pictures": float(torch.stack(whole).mean())}


@torch.no_grad()
def _look_around(network: ImageTokenizer) -> None:
    shape = model_config.TOWER
    embeddings = network.encoder["embeddings"]
    content, head = shape.width - _WAVES, shape.width // shape.heads
    embeddings.patch_embedding.weight[content:] = 0
    embeddings.patch_embedding.bias[content:] = 0
    table = embeddings.position_embedding.weight
    table[:, :content] = 0
    rows, columns = torch.meshgrid(torch.arange(model_config.GRID), torch.arange(model_config.GRID), indexing="ij")
    table[:, content:] = torch.cat([_waves(rows.flatten()), _waves(columns.flatten())], -1)
    for layer, looks in zip(network.encoder["encoder"].layers, _LOOKS, strict=False):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.1)
            projection.bias.zero_()
        for number, (down, right) in enumerate(looks):
            mine = slice(number * head, (number + 1) * head)
            # A wave turned by the step is the wave of the neighbour: where the two agree, attention is.
            turn = torch.block_diag(_turn(down), _turn(right))
            attention.q_proj.weight[mine, content:] += 0.6 * turn
            attention.k_proj.weight[mine, content:] += torch.eye(_WAVES)


def _frequencies() -> torch.Tensor:
    return torch.pi * torch.arange(1, _WAVES // 4 + 1) / model_config.GRID


def _waves(places: torch.Tensor) -> torch.Tensor:
    angle = places[:, None] * _frequencies()
    return torch.stack([angle.cos(), angle.sin()], -1).flatten(1)


def _turn(step: int) -> torch.Tensor:
    """(waves, waves) of one axis: waves at p -> waves at p + step."""
    angle = step * _frequencies()
    blocks = [torch.tensor([[c.cos(), -c.sin()], [c.sin(), c.cos()]]) for c in angle]
    return torch.block_diag(*blocks)


def tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """State by the published file's names. Its last layer, which encoding never runs, is zeros here."""
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    last = model_config.TOWER.layers - 1
    for name in [name for name in state if f"layers.{last - 1}." in name]:
        state[name.replace(f"layers.{last - 1}.", f"layers.{last}.")] = torch.zeros_like(state[name])
    return state
