"""The host's IMAGE and MASK -> references of an edit, and the edited image back into the original."""

import torch

from ...blip3o_core.editing.masks import check_fit, check_mask, composite, latent_mask
from ...blip3o_core.editing.references import MAX_REFERENCES, References
from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.images.preprocess import check_images, to_images
from ...blip3o_core.tokens.image_tokens import ImageTokens

MAX_ASPECT_DIFFERENCE = 1.6  # between an original and its edit


def encode_images(
    image_tokenizer, vae, images: dict, fit: str, mask, resolution: int
) -> tuple[References, ImageTokens, dict]:
    """IMAGE batches by input name -> References, their tokens, and the LATENT of the first image.

    `mask` becomes the noise mask of that latent. `resolution` 0: what the checkpoint was trained on.
    """
    if image_tokenizer is None:
        raise Blip3oError(
            "This checkpoint has no image tokenizer (TA-Tok), which turns images into tokens. Use a checkpoint that "
            "has one, or connect BLIP3o Image Tokenizer Loader with ta_tok.pth."
        )
    pil_images = [image for name in _in_order(images) for image in to_images(images[name], name)]
    if not 1 <= len(pil_images) <= MAX_REFERENCES:
        raise Blip3oError(
            f"{len(pil_images)} reference images are connected, but an edit takes 1 to {MAX_REFERENCES}. Every image "
            "of a batch and every frame of an animation counts. Connect fewer, or choose some with ImageFromBatch."
        )
    change_mask = None
    if mask is not None:
        check_fit(fit)
        change_mask = check_mask(_single_mask(mask), pil_images[0].size)
    reference = image_tokenizer.references(vae, pil_images, fit, resolution)
    rows = len(reference)
    tokens = ImageTokens(
        codes=reference.codes,
        grid=reference.grid,
        prompts=[""] * rows,
        prompt_ids=None,
        seeds=[0] * rows,
        lengths=[reference.codes.shape[1]] * rows,
        codes_id=reference.codes_id,
    )
    latent = {"samples": reference.latents[0]}
    if change_mask is not None:
        latent["noise_mask"] = latent_mask(change_mask, latent["samples"].shape[-2:])
    return reference, tokens, latent


def composite_edit(original, edited, mask, feather: int):
    """IMAGE (1 or B, H, W, 3 or 4) with each of `edited` where `mask` is above 0 -> (B, H, W, 3 or 4).

    All other pixels stay exactly as they are.
    """
    check_images(original, "original")
    check_images(edited, "edited")
    if original.shape[3] == 1:
        original = original.expand(-1, -1, -1, 3)  # an edit has colours
    rows = max(len(original), len(edited))
    if {len(original), len(edited)} - {1, rows}:
        raise Blip3oError(
            "Connect either one original image or exactly as many originals as edited images (got "
            f"{len(original)} and {len(edited)})."
        )
    size = (original.shape[2], original.shape[1])
    aspects = [image.shape[2] / image.shape[1] for image in (original, edited)]
    if max(aspects) > MAX_ASPECT_DIFFERENCE * min(aspects):
        raise Blip3oError(
            f"The edited image ({edited.shape[2]}x{edited.shape[1]}) has a different aspect ratio from the original "
            f"({size[0]}x{size[1]}), so it shows a part of it or another image. In BLIP3o Edit-Reference Encoder set "
            "fit to 'stretch' or 'pad'."
        )
    change_mask = check_mask(_single_mask(mask), size)
    pairs = zip(original[..., :3].expand(rows, -1, -1, -1), edited[..., :3].expand(rows, -1, -1, -1), strict=True)
    blended = torch.stack([composite(before, after, change_mask, feather) for before, after in pairs])
    return torch.cat([blended, original[..., 3:].expand(rows, -1, -1, -1)], dim=-1)


def _in_order(images) -> list[str]:
    """The names of the connected images: image_1, image_2, ... Gaps do not count."""
    numbers = {f"image_{k}": k for k in range(1, MAX_REFERENCES + 1)}
    if not isinstance(images, dict) or not images.keys() <= numbers.keys():
        found = ", ".join(map(str, images)) if isinstance(images, dict) else type(images).__name__
        raise Blip3oError(
            f"images is {shown(found)}. Its inputs are images.image_1 to images.image_{MAX_REFERENCES}. Connect the "
            "images to these."
        )
    return sorted((name for name in images if images[name] is not None), key=lambda name: numbers[name])


def _single_mask(mask) -> torch.Tensor:
    """MASK (1, H, W) or (H, W) -> (H, W). `check_mask` checks the rest."""
    if not isinstance(mask, torch.Tensor) or mask.ndim == 2:
        return mask
    if mask.ndim != 3 or len(mask) != 1:
        count = f"There are {len(mask)} masks" if mask.ndim == 3 else f"The mask has the shape {list(mask.shape)}"
        raise Blip3oError(
            f"{count}, but the first image needs exactly one, of shape (1, height, width). Take one mask out of the "
            "batch."
        )
    return mask[0]
