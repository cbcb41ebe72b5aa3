"""Reference consistency: an edit leaves alone what it should leave alone, and does something where it should.

Pixels and structure outside of the mask, times a gate that opens with the change inside: doing nothing gives 0. Whether
the change is the right one is for another reward to say.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from ..errors import Blip3oError, shown

TOLERANCE = 0.25  # mean absolute error from which the pixels outside count as a different image
CHANGE = 0.05  # change inside beyond that outside, from which an edit counts in full
WINDOW = 7  # px of the structural similarity, as in scikit-image


class ConsistencyReward:
    """0 to 1. Images are compared with their first reference, which is resized where it has another size.

    None without a reference, and where a mask leaves nothing outside. Without a mask None, too; with `whole` the
    similarity of the whole images, without the gate: then doing nothing gives 1.
    """

    name = "consistency"
    range = (0.0, 1.0)

    def __init__(self, change: float = CHANGE, tolerance: float = TOLERANCE, whole: bool = False):
        for option, value in (("change", change), ("tolerance", tolerance)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise Blip3oError(f"{option} is {shown(repr(value))}. Give a number above 0, at most 1.")
        if not isinstance(whole, bool):
            raise Blip3oError(f"whole is {shown(repr(whole))}. Use true to judge images without a mask, else false.")
        self.change, self.tolerance, self.whole = change, tolerance, whole
        self.version = f"1 (change {change:g}, tolerance {tolerance:g}{', whole' * whole})"

    def __call__(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[str],
        references: Sequence[Sequence[torch.Tensor]],
        masks: Sequence[torch.Tensor | None],
        meta: Sequence[Mapping[str, Any]],
    ) -> list[float | None]:
        return [
            self._value(image, own[0], mask) if len(own) else None
            for image, own, mask in zip(images, references, masks, strict=True)
        ]

    def _value(self, image: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor | None) -> float | None:
        size = image.shape[:2]
        inside = torch.zeros(size, dtype=torch.bool) if mask is None else _resized(mask[..., None], size)[..., 0] > 0
        if (mask is None and not self.whole) or bool(inside.all()):
            return None
        image, reference = image.float(), _resized(reference, size).clamp(0, 1)
        difference = (image - reference).abs().mean(-1)
        outside = float(difference[~inside].mean())
        kept = max(0.0, 1 - outside / self.tolerance)
        # What changed inside must not blur into the windows outside.
        structure = similarity(torch.where(inside[..., None], reference, image), reference)
        edge = WINDOW // 2
        seen = ~inside[edge : size[0] - edge, edge : size[1] - edge]
        if structure is not None and bool(seen.any()):
            kept = (kept + max(0.0, float(structure[seen].mean()))) / 2
        if not bool(inside.any()):  # nothing may change, so that nothing can be gated
            return kept
        # Beyond the outside: an autoencoder or a shift changes all pixels, which is no edit.
        return kept * min(1.0, max(0.0, float(difference[inside].mean()) - outside) / self.change)


def similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """Structural similarity of (H, W, 3) images in [0, 1], (H - 6, W - 6): of each pixel with a whole window around it.

    Wang et al. 2004 with a flat window of 7 px and sample covariances, as in scikit-image. None for smaller images.
    """
    if min(one.shape[:2]) < WINDOW:
        return None
    x, y = (image.float().permute(2, 0, 1)[:, None] for image in (one, other))

    def mean(values: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(values, WINDOW, stride=1)

    sample = WINDOW**2 / (WINDOW**2 - 1)
    mean_x, mean_y = mean(x), mean(y)
    variances = sample * (mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2)
    covariance = sample * (mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return found[:, 0].mean(0)


def _resized(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(H, W, C) float32 of the given height and width."""
    image = image.float()
    if tuple(image.shape[:2]) == tuple(size):
        return image
    planes = functional.interpolate(image.permute(2, 0, 1)[None], tuple(size), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0)
