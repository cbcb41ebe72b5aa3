"""Training data of the first edition's joint stages: scenes and edits, encoded by the checkpoint's own encoders and
packed in files. Its images are square, and its edits have one reference.
"""

from pathlib import Path

import torch

from ...checkpoint import Checkpoint
from ...training.data.packed import pack
from ..scenes.captions import caption
from ..scenes.edits import instruction, make_edit
from ..scenes.world import World
from .ahead import list_of, made_ahead
from .autoencoder import drawn, encode_images, scaled
from .image_tokenizer import drawn_squares
from .quick_world import make_scene

_BATCH = 100


class Encoders:
    """Both encoders of an image, on a device: to codes, and to scaled latents. `workers` draw the images."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", workers: int = 0):
        self.workers = workers
        self.tower = checkpoint.load_image_tokenizer(torch.float32).to(device)
        self.vae = checkpoint.load_autoencoder(torch.float32).to(device)

    @torch.no_grad()
    def encode(self, scenes) -> tuple[torch.Tensor, torch.Tensor]:
        """Scenes -> codes (N, H*W) int16 and latents (N, C, h, w) bf16."""
        codes, latents, side = [], [], self.tower.config.image_size
        device = next(self.tower.parameters()).device

        def draw(first: int) -> tuple[torch.Tensor, torch.Tensor]:
            batch = scenes[first : first + _BATCH]
            return drawn_squares(batch, side), drawn(batch, side)

        for square, images in made_ahead(draw, range(0, len(scenes), _BATCH), self.workers):
            features = self.tower.features(scaled(square.to(device)))
            codes.append(self.tower.codes(features).to("cpu", torch.int16))
            latents.append(encode_images(self.vae, images))
        return torch.cat(codes), torch.cat(latents)


def pack_scenes(encoders: Encoders, path: Path, seed: int, count: int, world: World, plain: tuple[bool, ...]):
    """Pack training scenes, each with one caption per entry of `plain`: in plain grammar, or in any phrasing."""
    scenes = list_of(lambda index: make_scene(seed, "train", index, world), count, encoders.workers)
    captions = [
        [caption(scene, row * len(plain) + k, plain=is_plain) for k, is_plain in enumerate(plain)]
        for row, scene in enumerate(scenes)
    ]
    codes, latents = encoders.encode(scenes)
    pack(path, codes, latents, captions)


def pack_edits(encoders: Encoders, path: Path, seed: int, count: int, world: World, wordings: int = 4):
    """Pack training edits: the image before as the reference, the image after as the target."""
    edits = list_of(lambda index: make_edit(seed, "train", index, world), count, encoders.workers)
    references, reference_latents = encoders.encode([edit.source for edit in edits])
    codes, latents = encoders.encode([edit.target for edit in edits])
    instructions = [[instruction(edit, row * wordings + k) for k in range(wordings)] for row, edit in enumerate(edits)]
    pack(path, codes, latents, instructions, references[:, None], reference_latents[:, None])
