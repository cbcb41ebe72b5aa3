"""Masked edits: where the picture may change, in latent cells and in pixels.

A mask is 1 where the picture may change. A latent cell that the mask touches is drawn anew; pixels outside the mask are
the original's, bit for bit, at the original's own size.
"""

import torch
import torch.nn.functional as F

from .errors import Blip3oError


def check_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) float in [0, 1] that belongs to a picture of `size` (width, height) and lets something change."""
    if mask.ndim != 2 or tuple(mask.shape) != (size[1], size[0]):
        shown = "x".join(map(str, reversed(mask.shape)))
        raise Blip3oError(f"The mask is {shown}, the picture {size[0]}x{size[1]}: they must have the same size.")
    if not bool(torch.isfinite(mask).all()):
        raise Blip3oError("The mask holds NaN or infinity. Paint it again, or take the node out that computed it.")
    mask = mask.float().clamp(0, 1)
    if not bool(mask.any()):
        raise Blip3oError("The mask is empty (all 0): nothing may change. Paint what is to change, or leave it out.")
    return mask


def latent_mask(mask: torch.Tensor, cells: tuple[int, int]) -> torch.Tensor:
    """(H, W) mask -> (1, 1, h, w): 1 for every latent cell that it touches."""
    return F.adaptive_max_pool2d((mask > 0).float()[None, None], cells)


def composite(original: torch.Tensor, edited: torch.Tensor, mask: torch.Tensor, feather: int = 0) -> torch.Tensor:
    """Original (H, W, 3) with `edited` (h, w, 3), resized to it, where `mask` (H, W) is above 0 -> (H, W, 3).

    `feather`: pixels, inside the mask, over which the one turns into the other.
    """
    height, width = original.shape[:2]
    if feather > 0:
        inside = (mask > 0).float()[None, None]
        size = 2 * feather + 1
        eroded = -F.max_pool2d(-F.pad(inside, [feather] * 4, value=1.0), size, stride=1)
        mask = mask * F.avg_pool2d(F.pad(eroded, [feather] * 4, mode="replicate"), size, stride=1)[0, 0] * inside[0, 0]
    edited = edited.movedim(-1, 0)[None].to(original)
    if edited.shape[-2:] != (height, width):
        edited = F.interpolate(edited, (height, width), mode="bicubic", antialias=True, align_corners=False)
    weight = mask.to(original)[..., None]
    blended = torch.lerp(original, edited[0].movedim(0, -1).clamp(0, 1), weight)
    return torch.where(weight > 0, blended, original)
