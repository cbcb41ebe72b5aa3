"""Training data of the joint stages: scenes and edits, encoded by the checkpoint's own encoders and packed in files."""

from pathlib import Path

import torch

from ...checkpoint import Checkpoint
from ...training.data.packed import pack
from ..scenes.captions import SHAPE_WORDS, caption
from ..scenes.edits import Edit, instruction, make_edit
from ..scenes.world import SQUARE, World
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
        """Scenes of one canvas -> codes (N, H*W) int16 and latents (N, C, h, w) bf16."""
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
    """Pack training scenes, each with one caption per entry of `plain`: in plain grammar, or in any phrasing.

    Scenes that are not square get a file of their own for each shape, whose name is in the file's.
    """
    scenes = list_of(lambda index: make_scene(seed, "train", index, world), count, encoders.workers)
    for canvas, rows in _rows_by_canvas([scene.canvas for scene in scenes]):
        codes, latents = encoders.encode([scenes[row] for row in rows])
        captions = [
            [caption(scenes[row], row * len(plain) + k, plain=is_plain) for k, is_plain in enumerate(plain)]
            for row in rows
        ]
        pack(_path_of(path, canvas), codes, latents, captions)


def pack_edits(encoders: Encoders, path: Path, seed: int, count: int, world: World, wordings: int = 4):
    """Pack training edits: the images before as references, the image after as the target. Files as for scenes."""
    edits = list_of(lambda index: make_edit(seed, "train", index, world), count, encoders.workers)
    most = max(len(edit.sources) for edit in edits)
    for canvas, rows in _rows_by_canvas([edit.target.canvas for edit in edits]):
        own = [edits[row] for row in rows]
        references, reference_latents = _references(encoders, own, most)
        codes, latents = encoders.encode([edit.target for edit in own])
        instructions = [[instruction(edits[row], row * wordings + k) for k in range(wordings)] for row in rows]
        pack(_path_of(path, canvas), codes, latents, instructions, references, reference_latents)


def _references(encoders: Encoders, edits: list[Edit], most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (N, R, H*W), -1 after an edit's last reference, and latents (N, R, C, h, w)."""
    codes, latents = encoders.encode([edit.source for edit in edits])
    all_codes = torch.full((len(edits), most, codes.shape[1]), -1, dtype=codes.dtype)
    all_latents = torch.zeros(len(edits), most, *latents.shape[1:], dtype=latents.dtype)
    all_codes[:, 0], all_latents[:, 0] = codes, latents
    rows = [(row, edit.second) for row, edit in enumerate(edits) if edit.second is not None]
    if rows:
        chosen = [row for row, _ in rows]
        all_codes[chosen, 1], all_latents[chosen, 1] = encoders.encode([scene for _, scene in rows])
    return all_codes, all_latents


def _rows_by_canvas(canvases: list[tuple[int, int]]) -> list[tuple[tuple[int, int], list[int]]]:
    found: dict[tuple[int, int], list[int]] = {}
    for row, canvas in enumerate(canvases):
        found.setdefault(canvas, []).append(row)
    return list(found.items())


def _path_of(path: Path, canvas: tuple[int, int]) -> Path:
    return path if canvas == SQUARE else path.with_name(f"{path.stem}-{SHAPE_WORDS[canvas]}{path.suffix}")
