"""Masked edits: where an image may change, in latent cells and in pixels.

A mask is 1 where the image may change. A latent cell that the mask touches is rendered anew. Pixels outside the mask
stay exactly as they are in the original, at its own size.
"""

import torch
import torch.nn.functional as F

from ..checks import require_finite
from ..errors import Blip3oError

MAX_FEATHER = 1024  # pixels
_FITS_WITHOUT_CROP = ("stretch", "pad")


def check_fit(fit: str) -> None:
    """Raise Blip3oError for a fit (see `images.preprocess`) with which the autoencoder sees part of the image only."""
    if fit not in _FITS_WITHOUT_CROP:
        raise Blip3oError(
            f"fit {fit!r} cannot be combined with a mask because it would cut part of the image away. Use "
            f"{' or '.join(map(repr, _FITS_WITHOUT_CROP))}."
        )


def check_feather(feather: int) -> None:
    if not 0 <= feather <= MAX_FEATHER:
        raise Blip3oError(f"feather is {feather}. It must be 0 to {MAX_FEATHER} pixels.")


def check_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) mask of an image of `size` (width, height) -> float in [0, 1]. Raises Blip3oError for an empty mask."""
    if not isinstance(mask, torch.Tensor) or not (mask.is_floating_point() or mask.dtype == torch.bool):
        kind = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise Blip3oError(
            f"The mask is of the type {kind}. It must be a tensor of floats from 0 (stays) to 1 (may change). Connect "
            "a mask, or leave it out."
        )
    if tuple(mask.shape) != (size[1], size[0]):
        found = "x".join(map(str, reversed(mask.shape)))
        raise Blip3oError(
            f"The mask is {found} and the image is {size[0]}x{size[1]}. They must have the same size. Paint the mask "
            "on this image, or leave the mask out."
        )
    require_finite(mask, "The mask", "Paint it again, or remove the node that computed it.")
    mask = mask.float().clamp(0, 1)
    if not bool(mask.any()):
        raise Blip3oError(
            "The mask is empty (all 0), so nothing may change. Paint the part that should change, or leave the mask "
            "out."
        )
    return mask


def latent_mask(mask: torch.Tensor, cells: tuple[int, int]) -> torch.Tensor:
    """(H, W) mask -> (1, 1, h, w): 1 for every latent cell that the mask touches. `cells`: (h, w)."""
    return F.adaptive_max_pool2d((mask > 0).float()[None, None], cells)


def feather_mask(mask: torch.Tensor, feather: int) -> torch.Tensor:
    """(H, W) mask -> weights that rise over `feather` pixels inside its edge. The edge of the image does not count."""
    check_feather(feather)
    if feather == 0:
        return mask
    radius = (feather + 1) // 2
    inside = (mask > 0).double()
    eroded = _box_mean(inside, radius) > 1 - 0.5 / (2 * radius + 1) ** 2
    if not bool(eroded.any()):
        raise Blip3oError(
            f"feather is {feather} pixels, which leaves nothing of the mask, so nothing would change. Use a smaller "
            "feather or a larger mask."
        )
    return mask * (_box_mean(eroded.double(), radius).clamp(0, 1) * inside).to(mask)


def _box_mean(plane: torch.Tensor, radius: int) -> torch.Tensor:
    """(H, W) -> the mean of the square of `radius` pixels around each pixel; edge pixels are repeated outwards.

    Running sums, because pooling with wide windows takes minutes for a photo.
    """
    size = 2 * radius + 1
    for _ in range(2):
        sums = F.pad(plane[None], (radius + 1, radius), mode="replicate")[0].cumsum(1)
        plane = ((sums[:, size:] - sums[:, :-size]) / size).T
    return plane


def composite(original: torch.Tensor, edited: torch.Tensor, mask: torch.Tensor, feather: int = 0) -> torch.Tensor:
    """Original (H, W, 3) with `edited` (h, w, 3), resized to it, where `mask` (H, W) is above 0 -> (H, W, 3).

    `feather`: pixels inside the mask over which the original blends into the edit.
    """
    height, width = original.shape[:2]
    mask = feather_mask(mask, feather)
    edited = edited.movedim(-1, 0)[None].to(original)
    if edited.shape[-2:] != (height, width):
        edited = F.interpolate(edited, (height, width), mode="bicubic", antialias=True, align_corners=False)
    weight = mask.to(original)[..., None]
    blended = torch.lerp(original, edited[0].movedim(0, -1).clamp(0, 1), weight)
    return torch.where(weight > 0, blended, original)
