"""The host's IMAGE and MASK -> references, and back into the original picture."""

import torch

from ...blip3o_core.editing.masks import check_fit, check_mask, composite, latent_mask
from ...blip3o_core.editing.references import MAX_REFERENCES, References
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.images.preprocess import to_images
from ...blip3o_core.tokens import ImageTokens


def encode_images(tatok, vae, images: dict, fit: str, mask, side: int) -> tuple[References, ImageTokens, dict]:
    """IMAGE batches by name -> References, their tokens, the LATENT of the first; `mask` becomes its noise mask."""
    if tatok is None:
        raise Blip3oError(
            "This checkpoint brings no image tokenizer (TA-Tok), so pictures cannot become tokens. Use a checkpoint "
            "that has it, or BLIP3o Image Tokenizer Loader with ta_tok.pth."
        )
    order = sorted(images, key=lambda name: int(name.rpartition("_")[2]))
    pictures = [p for name in order if images[name] is not None for p in to_images(images[name], name)]
    if not 1 <= len(pictures) <= MAX_REFERENCES:
        raise Blip3oError(
            f"{len(pictures)} reference pictures are connected; an edit takes 1 to {MAX_REFERENCES}. Every picture of "
            "a batch and every frame of an animation counts: connect fewer, or choose some with ImageFromBatch."
        )
    change = None
    if mask is not None:
        check_fit(fit)
        change = check_mask(_one(mask), pictures[0].size)
    reference = tatok.references(vae, pictures, fit, side)
    rows = len(reference)
    tokens = ImageTokens(
        codes=reference.codes, grid=reference.grid, prompts=[""] * rows, prompt_ids=None, seeds=[0] * rows,
        lengths=[reference.codes.shape[1]] * rows, codes_id=reference.codes_id,
    )  # fmt: skip
    latent = {"samples": reference.latents[0]}
    if change is not None:
        latent["noise_mask"] = latent_mask(change, latent["samples"].shape[-2:])
    return reference, tokens, latent


def composite_edit(original, edited, mask, feather: int):
    """IMAGE (1 or B, H, W, 3) with each of `edited` where `mask` is above 0 -> (B, H, W, 3), the rest bit for bit."""
    rows = max(len(original), len(edited))
    if {len(original), len(edited)} - {1, rows}:
        raise Blip3oError(
            f"{len(original)} originals and {len(edited)} edited pictures: give one original, or as many as edits."
        )
    size = (original.shape[2], original.shape[1])
    aspects = [picture.shape[2] / picture.shape[1] for picture in (original, edited)]
    if max(aspects) > 1.6 * min(aspects):
        raise Blip3oError(
            f"The edit is {edited.shape[2]}x{edited.shape[1]}, the original {size[0]}x{size[1]}: it shows a part "
            "of it, or another picture. Encode the original with fit stretch or pad."
        )
    change = check_mask(_one(mask), size)
    pictures = zip(original[..., :3].expand(rows, -1, -1, -1), edited[..., :3].expand(rows, -1, -1, -1), strict=True)
    blended = torch.stack([composite(before, after, change, feather) for before, after in pictures])
    return torch.cat([blended, original[..., 3:].expand(rows, -1, -1, -1)], dim=-1)


def _one(mask) -> torch.Tensor:
    """MASK (1, H, W) or (H, W) -> (H, W)."""
    mask = mask if mask.ndim == 3 else mask[None]
    if len(mask) != 1:
        raise Blip3oError(f"{len(mask)} masks: one is needed, for the first image. Take one out of the batch.")
    return mask[0]
