"""Lists of prompts for a graph, and what their images are worth: a labelled grid and means by category."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.evaluation.interface import Item
from ...blip3o_core.evaluation.items import Entry, make_items, read_entries
from ...blip3o_core.evaluation.results import over_items, table, with_interval
from ...blip3o_core.evaluation.tasks.own import item_of
from ...blip3o_core.files import atomic_write, split_lines
from ...blip3o_core.images.reader import MAX_PIXELS
from ...blip3o_core.reports.contact_sheet import make_contact_sheet
from ...blip3o_core.seeds import seed_of
from . import notes, prompt_files, saving

MOST = 1000  # prompts of a run
_HEAD = "# "  # of a line that names the category of those below


def list_prompts(text: str, file: str, sample: int, limit: int) -> tuple[list[str], list[int], list[str]]:
    """(prompts, seeds, categories): of a file, or the lines of a text. Seeds are those of `blip3o evaluate own`."""
    items = _items_of_text(text) if file == prompt_files.NONE else _items_of_file(prompt_files.resolve(file))
    items = items[: limit or None]
    if len(items) > MOST:
        raise Blip3oError(f"There are {len(items):,} prompts. Set limit to {MOST:,} or less.")
    seeds = [seed_of("evaluation", "own", item.id, sample) for item in items]
    return [item.prompt for item in items], seeds, [item.category for item in items]


def _items_of_text(text: str) -> list[Item]:
    entries, category = [], ""
    for number, line in enumerate(split_lines(text), 1):
        if line.startswith(_HEAD):
            category = line.removeprefix(_HEAD).strip()
        elif line.strip():
            entries.append(Entry(Path("prompts"), f"line {number}", {"prompt": line.strip(), "category": category}))
    if not entries:
        raise Blip3oError("prompts is empty. Write one prompt on each line, or choose a file.")
    return make_items(entries, item_of)


def _items_of_file(path: Path) -> list[Item]:
    entries = read_entries(path)
    if edits := [entry.where for entry in entries if "references" in entry.values]:
        raise Blip3oError(
            f"{edits[0]} has references. This node gives prompts only; for edits use `blip3o evaluate own`."
        )
    return make_items(entries, item_of)


def evaluate(
    images: Sequence[torch.Tensor], prompts: Sequence[str], categories: Sequence[str], scores: Sequence | None
) -> list[dict]:
    """What each batch of a list is: its images (H, W, 3), prompt, category, and a score or None for each image."""
    count, total = len(images), sum(map(len, images))
    given = {"prompts": prompts or [""], "categories": categories or [""]}
    for name, values in given.items():
        if len(values) not in (1, count):
            raise Blip3oError(
                f"{name} has {len(values)} entries and images has {count}. Connect {name} of the BLIP3o Prompt List "
                "that the images were made from."
            )
    if scores is not None and len(scores) != total:
        raise Blip3oError(
            f"scores has {len(scores)} numbers for {total} images. Connect the BLIP3o Score Images that scores these "
            "images."
        )
    left, found = list(scores or [None] * total), []
    for k, batch in enumerate(images):
        prompt, category = (values[k % len(values)] for values in given.values())
        found.append({"prompt": prompt, "category": category, "images": list(batch), "scores": left[: len(batch)]})
        del left[: len(batch)]
    return found


def draw(found: Sequence[dict], columns: int, width: int) -> torch.Tensor:
    """(1, H, W, 3): each image over its score and prompt. Raises Blip3oError for a grid that is too large."""
    every = [
        (image, one["prompt"], score)
        for one in found
        for image, score in zip(one["images"], one["scores"], strict=True)
    ]
    across, tallest = min(columns, len(every)), max(width * image.shape[0] // image.shape[1] for image, *_ in every)
    size = across * width, -(-len(every) // across) * tallest
    if size[0] * size[1] > MAX_PIXELS:
        raise Blip3oError(
            f"The grid of {len(every):,} images would have {size[0]:,}x{size[1]:,} pixels, and at most "
            f"{MAX_PIXELS // 10**6} million can be saved. Choose a smaller image_width."
        )
    pixels = [(image[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy() for image, _, _ in every]
    labels = [prompt if score is None else f"{score:.3g}: {prompt}" for _, prompt, score in every]
    sheet = make_contact_sheet(pixels, labels, columns, width, max(10, width // 18))
    return torch.from_numpy(sheet.astype(np.float32) / 255)[None]


def summarise(found: Sequence[dict]) -> tuple[dict, str]:
    """(means by category and overall with 95 % intervals over prompts, the same as a table). Tells the overall one."""
    values = {}
    for k, one in enumerate(found):
        numbers = [score for score in one["scores"] if score is not None]
        if numbers:
            values[str(k)] = sum(numbers) / len(numbers)
    means = over_items(values, {str(k): one["category"] for k, one in enumerate(found)}, None)
    lines = table({"score": means})
    if len(values) < len(found):
        lines += ["", f"{len(found) - len(values)} of {len(found)} prompts have no score and count in no mean."]
    if values:
        told = f"Mean score of {len(values)} prompts: {with_interval(means['overall'])}, the 95 % interval in brackets."
        notes.tell([told], logging.INFO)
    return means, "\n".join(lines)


def save(found: Sequence[dict], means: dict, prefix: str, hidden) -> None:
    """A JSON file with the prompts, their scores and the means, in the output folder."""
    items = [{name: one[name] for name in ("prompt", "category", "scores")} for one in found]

    def write(path: Path, made_by: dict[str, str]) -> None:
        content = {
            "means": means,
            "items": items,
            "made_by": {name: json.loads(text) for name, text in made_by.items()},
        }
        with atomic_write(path, replace=False) as scratch:
            scratch.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    saving.save(prefix, ".json", write, hidden)
