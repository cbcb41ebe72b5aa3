"""The tiny world's judge as a reward: it knows what a caption or an instruction of that world asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import Blip3oError, shown
from ..scenes.caption_reader import read_caption
from ..scenes.edits import Edit
from ..scenes.spec import Spec, Verdict
from .judge import judge_edit, judge_image

STRICT = 0.7  # share of the reward for an image that is completely right; the rest is partial credit


class TinyReward:
    """1 exactly when the image is completely right. `meta` has what it is compared with: `spec`, or for edits `edit`.

    Without either the prompt says it. None where that is no caption of this world, and for edits: an instruction alone
    does not say what the reference shows.
    """

    name = "tiny"
    range = (0.0, 1.0)

    def __init__(self, strict: float = STRICT):
        if isinstance(strict, bool) or not isinstance(strict, int | float) or not 0 <= strict <= 1:
            raise Blip3oError(
                f"strict is {shown(repr(strict))}. Give the share from 0 to 1 that only right images get."
            )
        self.strict, self.version = strict, f"1 (strict {strict:g})"

    def __call__(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[str],
        references: Sequence[Sequence[torch.Tensor]],
        masks: Sequence[torch.Tensor | None],
        meta: Sequence[Mapping[str, Any]],
    ) -> list[float | None]:
        asked = [
            about if shown_before or about.keys() & {"spec", "edit"} else {"spec": read_caption(prompt)}
            for prompt, shown_before, about in zip(prompts, references, meta, strict=True)
        ]
        verdicts = [judged(image, about) for image, about in zip(images, asked, strict=True)]
        return [None if verdict is None else value(verdict, self.strict) for verdict in verdicts]


def value(verdict: Verdict, strict: float = STRICT) -> float:
    """The reward of a judged image."""
    return strict * verdict.strict + (1 - strict) * verdict.credit


def judged(image: torch.Tensor, about: Mapping[str, Any]) -> Verdict | None:
    """The judge's verdict on one image. Raises Blip3oError where it is compared with something else than it knows."""
    edit, spec = about.get("edit"), about.get("spec")
    for name, given, kind in (("edit", edit, Edit), ("spec", spec, Spec)):
        if given is not None and not isinstance(given, kind):
            raise Blip3oError(
                f"meta {name!r} is {shown(repr(given), 80)}, not {kind.__name__} of the tiny world. "
                "Take tasks of the tiny world, or another reward."
            )
    if edit is None and spec is None:
        return None
    pixels = image.detach().cpu().numpy()
    return judge_image(pixels, spec) if edit is None else judge_edit(pixels, edit)
