"""Training data of the joint stages: scenes and edits, encoded by the checkpoint's own encoders and packed in files."""

from pathlib import Path

import torch

from ...checkpoint import Checkpoint
from ...training.data.packed import pack
from ..scenes.captions import caption
from ..scenes.edits import instruction, make_edit
from ..scenes.world import World
from .autoencoder import pixels
from .quick_world import make_scene

_BATCH = 100


class Encoders:
    """Both encoders of an image: to codes, and to scaled latents."""

    def __init__(self, checkpoint: Checkpoint):
        self.tower = checkpoint.load_image_tokenizer(torch.float32)
        self.vae = checkpoint.load_autoencoder(torch.float32)

    @torch.no_grad()
    def encode(self, scenes) -> tuple[torch.Tensor, torch.Tensor]:
        """Scenes -> codes (N, H*W) int16 and latents (N, C, h, w) bf16."""
        codes, latents = [], []
        for first in range(0, len(scenes), _BATCH):
            images = pixels(scenes[first : first + _BATCH])
            codes.append(self.tower.codes(self.tower.features(images)).to(torch.int16))
            latents.append((self.vae.encode(images).latent * self.vae.config.scaling_factor).bfloat16())
        return torch.cat(codes), torch.cat(latents)


def pack_scenes(checkpoint: Checkpoint, path: Path, seed: int, count: int, world: World, plain: tuple[bool, ...]):
    """Pack training scenes, each with one caption per entry of `plain`: in plain grammar, or in any phrasing."""
    scenes = [make_scene(seed, "train", index, world) for index in range(count)]
    codes, latents = Encoders(checkpoint).encode(scenes)
    captions = [
        [caption(scene, index * len(plain) + k, plain=is_plain) for k, is_plain in enumerate(plain)]
        for index, scene in enumerate(scenes)
    ]
    pack(path, codes, latents, captions)


def pack_edits(checkpoint: Checkpoint, path: Path, seed: int, count: int, world: World, wordings: int = 4):
    """Pack training edits: the image before as the only reference, the image after as the target."""
    edits = [make_edit(seed, "train", index, world) for index in range(count)]
    encoders = Encoders(checkpoint)
    references, reference_latents = encoders.encode([edit.source for edit in edits])
    codes, latents = encoders.encode([edit.target for edit in edits])
    instructions = [[instruction(e, index * wordings + k) for k in range(wordings)] for index, e in enumerate(edits)]
    pack(path, codes, latents, instructions, references, reference_latents)
