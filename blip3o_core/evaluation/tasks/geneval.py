"""GenEval: 553 prompts of objects, counts, colours and positions; an object detector judges four images of each.

Source: github.com/djghosh13/geneval, README.md and generation/diffusers_generate.py.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import Blip3oError, shown
from ..interface import Item
from ..items import Entry, find_file, make_items, read_entries
from .options import read_options
from .prompts import PromptTask, Published

PUBLISHED = Published("djghosh13/geneval", "af4902f24d3ca90ebbb446dd9891a59e0f82725f", 553, "c7d7527409d5bf51")
_FILES = ("prompts/evaluation_metadata.jsonl", "evaluation_metadata.jsonl")
_REMEDY = "Clone github.com/djghosh13/geneval and give --data its folder, or its prompts/evaluation_metadata.jsonl."


@dataclass(frozen=True)
class GenEval(PromptTask):
    name: str = "geneval"
    samples: int = 4

    @property
    def published(self) -> Published:
        return PUBLISHED

    @property
    def weights(self) -> Mapping[str, float]:
        """The overall score is the mean over the six tags, whose numbers of prompts differ."""
        return dict.fromkeys((item.category for item in self.items), 1.0)

    def file(self, item: Item, sample: int) -> PurePosixPath:
        return PurePosixPath(item.id) / "samples" / f"{sample:04d}.png"

    def others(self, item: Item) -> Mapping[PurePosixPath, bytes]:
        return {PurePosixPath(item.id) / "metadata.jsonl": json.dumps(dict(item.facts)).encode()}

    def official(self, images: Path) -> str:
        return f"""{self.published.note(self.items)}
# In a clone of github.com/djghosh13/geneval that is set up as its README says:
IMAGES={shlex.quote(str(images))}
python evaluation/evaluate_images.py "$IMAGES" --outfile results.jsonl --model-path OBJECT_DETECTOR_FOLDER
python evaluation/summary_scores.py results.jsonl"""


def open_task(data: Path | None, options: Mapping[str, str]) -> GenEval:
    read_options("geneval", options, {})
    return GenEval(make_items(read_entries(find_file(data, _FILES, _REMEDY)), _item))


def _item(number: int, entry: Entry) -> Item:
    tag, prompt = entry.text("tag"), entry.text("prompt")
    for name in ("include", "exclude") if "exclude" in entry.values else ("include",):
        _check_objects(name, entry.values.get(name))
    return Item(f"{number:05d}", prompt, tag, facts=entry.values)


def _check_objects(name: str, objects: Any) -> None:
    """What its scorer stops at, after hours in the worst case."""
    known = isinstance(objects, list) and all(
        isinstance(one, dict) and isinstance(one.get("class"), str) and type(one.get("count")) is int for one in objects
    )
    if not known or not objects:
        raise Blip3oError(
            f'{name} is {shown(repr(objects), 80)}. It must be a list of objects with "class" and "count".'
        )
