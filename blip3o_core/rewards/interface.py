"""What a reward is: a judge that gives each image a number, or None where it has nothing to say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import Blip3oError


class Reward(Protocol):
    """Called with all images at once.

    - `images`: (H, W, 3) float32 in [0, 1] on the CPU, of any sizes. `references`: the same, none or several each.
    - `masks`: (H, W) float32, 1 where an edit may change the image; None: everywhere.
    - `meta`: what a task says besides its prompt, such as what its judge compares the image with.
    - The numbers lie in `range`, in the order of the images. None: this image cannot be judged, such as one whose
      prompt asks for no text, by a reader of text. An exception in place of a number: this image should have one, and
      could not be judged for this reason. Raises Blip3oError where nothing could be judged.
    """

    name: str
    version: str  # another one when the same image may get another number
    range: tuple[float, float]  # the least and the largest number, which may be infinite

    def __call__(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[str],
        references: Sequence[Sequence[torch.Tensor]],
        masks: Sequence[torch.Tensor | None],
        meta: Sequence[Mapping[str, Any]],
    ) -> Sequence[float | None | Exception]: ...


@dataclass(frozen=True)
class Candidates:
    """Images with all that rewards judge them by. What is left out is the same for every image: nothing."""

    images: Sequence[torch.Tensor]
    prompts: Sequence[str]
    references: Sequence[Sequence[torch.Tensor]] = ()
    masks: Sequence[torch.Tensor | None] = ()
    meta: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self):
        count = len(self.images)
        for name, nothing in {"references": (), "masks": None, "meta": {}}.items():
            if not getattr(self, name):
                object.__setattr__(self, name, [nothing] * count)
        for name in ("prompts", "references", "masks", "meta"):
            if len(getattr(self, name)) != count:
                raise Blip3oError(
                    f"There are {count} images but {len(getattr(self, name))} {name}. Give one for each image."
                )

    def judged_by(self, reward: Reward) -> Sequence[float | None | Exception]:
        return reward(self.images, self.prompts, self.references, self.masks, self.meta)
