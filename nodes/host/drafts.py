"""Drafts to choose from: small images for the node, and the outputs of the one that is chosen."""

import hashlib
import logging
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image

from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.files import atomic_write, naming_failures
from ...blip3o_core.rewards.best_of import ranking
from ...blip3o_core.tokens.image_tokens import ImageTokens
from . import notes

MOST_PIXELS = 512  # on a side of what the node shows
DRAFTS, CHOICE, SCORES = "blip3o_drafts", "blip3o_choice", "blip3o_scores"  # what web/js/drafts.js reads


def choose(
    tokens: ImageTokens, images: torch.Tensor, choice: int, scores: list[float | None] | None
) -> tuple[tuple, dict[str, list]]:
    """(outputs of the node, what its page shows). `choice` counts from 1; 0 is the best by `scores`, or waits."""
    count = len(tokens)
    if len(images) != count:
        raise Blip3oError(
            f"There are {count} drafts in tokens and {len(images)} images. Connect the quick render of each draft: set "
            "batch_size of its latent to 1, and render the tokens that are connected here."
        )
    if choice > count:
        raise Blip3oError(f"choice is {choice}, but there are {count} drafts. Choose 1 to {count}, or 0 to wait.")
    if scores is not None and len(scores) != count:
        raise Blip3oError(f"There are {len(scores)} scores for {count} drafts. Connect one score for each draft.")
    if choice == 0 and scores:
        choice = 1 + ranking(scores)[0]
    shown: dict[str, list] = {DRAFTS: thumbnails(images), CHOICE: [choice], SCORES: scores or []}
    if choice == 0:
        notes.tell([f"Click a draft, or set choice to 1 to {count}, and run again."], logging.INFO)
        return (ExecutionBlocker(None),) * 3, shown
    index = choice - 1
    return (tokens.row(index), images[index : index + 1], index), shown


def thumbnails(images: torch.Tensor) -> list[dict[str, str]]:
    """Files in ComfyUI's temporary folder. Named by content, so that a new choice writes none of them again."""
    folder, places = Path(folder_paths.get_temp_directory()), []
    for image in images:
        pixels = (image[..., :3].detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
        name = f"blip3o_draft_{hashlib.sha256(pixels.tobytes()).hexdigest()[:24]}.png"
        if not (folder / name).exists():
            _write(pixels, folder / name)
        places.append({"filename": name, "subfolder": "", "type": "temp"})
    return places


def _write(pixels: np.ndarray, path: Path) -> None:
    small = Image.fromarray(pixels)
    small.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.LANCZOS)
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as scratch:
            small.save(scratch, "PNG", compress_level=1)
