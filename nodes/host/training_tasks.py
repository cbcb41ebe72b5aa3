"""What a training practises, as `blip3o grpo` reads it: a list of prompts, or of edits with their images beside it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image

from ...blip3o_core.editing.masks import check_mask
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.images.preprocess import to_images

MOST_PROMPTS = 10_000


@dataclass(frozen=True)
class Tasks:
    """Prompt k with image and mask k; a single image or mask belongs to all prompts."""

    prompts: list[str]
    references: list[Image]
    masks: list[Image]

    def write(self, folder: Path) -> Path:
        """The list of tasks in `folder`, which is written with its images."""
        # No newline of Unicode can be left in a prompt, and a half character becomes "?".
        lines = [prompt.encode("utf-8", "replace").decode() for prompt in self.prompts]
        if not self.references:
            return _write(folder / "prompts.txt", lines)
        references = _one_each(_save(self.references, folder, "reference"), len(lines))
        entries = [{"prompt": line, "references": [name]} for line, name in zip(lines, references, strict=True)]
        if self.masks:
            masks = _one_each(_save(self.masks, folder, "mask"), len(lines))
            entries = [{**entry, "mask": name} for entry, name in zip(entries, masks, strict=True)]
        return _write(folder / "tasks.jsonl", [json.dumps(entry) for entry in entries])


def read_tasks(text: str, reference: torch.Tensor | None, mask: torch.Tensor | None) -> Tasks:
    """`text`: a prompt on each line; `reference`: (n, H, W, 3); `mask`: (n, H, W). Raises Blip3oError for what does not
    fit together."""
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise Blip3oError("prompts is empty. Write what the images should show, a prompt on each line.")
    if len(prompts) > MOST_PROMPTS:
        raise Blip3oError(
            f"prompts has {len(prompts):,} lines, more than {MOST_PROMPTS:,}. Leave some out, or train with "
            "`blip3o grpo` on the command line."
        )
    if reference is None:
        if mask is not None:
            raise Blip3oError("mask belongs to an edit, but no reference is connected. Connect it, or leave mask out.")
        return Tasks(prompts, [], [])
    _check_count("reference images", reference, len(prompts))
    return Tasks(prompts, to_images(reference, "reference"), _masks(mask, reference, len(prompts)))


def _masks(mask: torch.Tensor | None, reference: torch.Tensor, prompts: int) -> list[Image]:
    if mask is None:
        return []
    rows = mask if mask.ndim == 3 else mask[None]
    _check_count("masks", rows, prompts)
    size = (reference.shape[2], reference.shape[1])
    grey = torch.stack([check_mask(one, size).cpu() for one in rows])
    return [image.convert("L") for image in to_images(grey[..., None], "mask")]


def _check_count(what: str, batch: torch.Tensor, prompts: int) -> None:
    if len(batch) not in (1, prompts):
        raise Blip3oError(
            f"There are {len(batch)} {what} for {prompts} prompts. Connect one for each line of prompts that is not "
            "empty, or a single one for all."
        )


def _save(images: Sequence[Image], folder: Path, name: str) -> list[str]:
    names = [f"{name}-{number:05}.png" for number in range(1, len(images) + 1)]
    for file, image in zip(names, images, strict=True):
        image.save(folder / file)
    return names


def _one_each(names: list[str], count: int) -> list[str]:
    return names * count if len(names) == 1 else names


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    return path
