"""True colours for the live mosaic of a checkpoint: learned while its images are rendered.

The conditioner writes into a condition which codes it is made of, the sampler writes that on the latent that these
codes describe, and VAE Decode compares codes and image. What other nodes do in between breaks the chain, never a run.
"""

import logging
from pathlib import Path

import folder_paths
import torch

from ...blip3o_core.tokens.colours import LearnedColours, learn, read_colours
from ...blip3o_core.tokens.image_tokens import ImageTokens

# Of a condition, and the name of the attribute of a latent.
KEY = "blip3o_codes"
# Other entries, such as areas, masks and ranges of steps, say that the condition is for a part of the image.
_OF_WHOLE_IMAGES = {KEY, "reference_cross", "reference_noise", "reference_latents"}


def _file(identity: str) -> Path:
    return Path(folder_paths.get_system_user_directory("blip3o"), "token_colours", f"{identity}.safetensors")


def learned(identity: str, num_codes: int) -> LearnedColours:
    """What is known of the checkpoint with this identity."""
    return read_colours(_file(identity), num_codes)


def origin(tokens: ImageTokens, condition: torch.Tensor, identity: str, num_codes: int) -> dict:
    """Entries for a condition that is made of `tokens`; none if a row ended early.

    Plain values, because other packs save conditions as they are.
    """
    if min(tokens.lengths) < tokens.grid[0] * tokens.grid[1]:
        return {}
    facts = {"codes": tokens.codes, "grid": tokens.grid, "num_codes": num_codes, "checkpoint": identity}
    return {KEY: facts | {"condition": condition}}


def note_origin(latent: torch.Tensor, positive: list) -> None:
    """Write on `latent`, which was rendered whole from `positive`, which codes it shows, if they are known."""
    if len(positive) != 1:
        return
    condition, entries = positive[0]
    facts = entries.get(KEY)
    # Nodes that mix or scale a condition make another tensor and copy the entries.
    if facts is not None and facts["condition"] is condition and entries.keys() <= _OF_WHOLE_IMAGES:
        setattr(latent, KEY, facts)


def learn_from(latent: torch.Tensor, images: torch.Tensor) -> None:
    """Learn colours from the (B, H, W, 3) images that `latent` was decoded to, once. Does nothing for other latents."""
    facts = latent.__dict__.pop(KEY, None)
    if facts is None:
        return
    codes = facts["codes"]
    rows = torch.arange(len(images)) % len(codes)  # as the host repeats a condition
    try:
        learn(_file(facts["checkpoint"]), facts["num_codes"], codes[rows], facts["grid"], images)
    except OSError as error:
        logging.getLogger(__name__).debug("BLIP3o: the colours of tokens could not be kept: %s", error)
