"""Training data of the quick recipe's joint stage: square images, encoded by the checkpoint's encoders and packed."""

from pathlib import Path

import torch

from ...checkpoint import Checkpoint
from ...training.data.packed import pack
from ..scenes.captions import caption
from ..scenes.world import World
from .autoencoder import drawn, encode_images, scaled
from .image_tokenizer import drawn_squares
from .quick_world import make_scene

_BATCH = 100


@torch.no_grad()
def pack_scenes(
    checkpoint: Checkpoint, path: Path, seed: int, count: int, world: World, plain: tuple[bool, ...]
) -> None:
    """Pack training scenes, each with one caption per entry of `plain`: in plain grammar, or in any phrasing."""
    tower, vae = checkpoint.load_image_tokenizer(torch.float32), checkpoint.load_autoencoder(torch.float32)
    scenes = [make_scene(seed, "train", index, world) for index in range(count)]
    captions = [
        [caption(scene, row * len(plain) + k, plain=is_plain) for k, is_plain in enumerate(plain)]
        for row, scene in enumerate(scenes)
    ]
    codes, latents, side = [], [], tower.config.image_size
    for first in range(0, count, _BATCH):
        batch = scenes[first : first + _BATCH]
        codes.append(tower.codes(tower.features(scaled(drawn_squares(batch, side)))).to(torch.int16))
        latents.append(encode_images(vae, drawn(batch, side)))
    pack(path, torch.cat(codes), torch.cat(latents), captions)
