"""GEdit-Bench: edits of eleven kinds with English or Chinese instructions; a model that sees images gives two scores.

Source: github.com/stepfun-ai/Step1X-Edit, GEdit-Bench: EVAL.md, generate_image_example.py, test_gedit_score.py,
calculate_statistics.py. The edit starts from `input_image_raw`; the scorer compares with `input_image`, which lies
beside the result as KEY_SRCIMG.png.
"""

import hashlib
import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...errors import Blip3oError, shown
from ...images.reader import read_image
from ..interface import Item, Reference
from ..items import make_items
from ..judges.gedit import INTERSECTION, SOURCE
from .gedit_rows import ImageRow, read_rows
from .options import one_of, read_options
from .prompts import PromptTask

METHOD = "blip3o"  # the folder of a method in the scorer's layout
KINDS = (
    *("background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change"),
    *("subject-add", "subject-remove", "subject-replace", "text_change", "tone_transfer"),
)
LANGUAGES = ("en", "cn")
_COMMANDS = """\
# In GEdit-Bench of a clone of github.com/stepfun-ai/Step1X-Edit, with your key in secret_t2.env.
# test_gedit_score.py as published goes through the names of the splits: write split="train" in its load_dataset.
python test_gedit_score.py --model_name {method} --save_path {images} --backbone gpt4o
python calculate_statistics.py --model_name {method} --save_path {images} --backbone gpt4o --language {language}"""
_CHINESE = (
    "\n# calculate_statistics.py as published has no language cn, which is the set's own word: add it to its choices."
)


@dataclass(frozen=True)
class GEdit(PromptTask):
    name: str = "gedit"
    language: str = "en"

    @property
    def weights(self) -> Mapping[str, float]:
        return dict.fromkeys(KINDS, 1.0)

    def file(self, item: Item, sample: int) -> PurePosixPath:
        """The scorer knows one image of each edit; further ones lie beside it."""
        return self._place(item, "" if sample == 0 else f"-{sample}")

    def others(self, item: Item) -> Mapping[PurePosixPath, bytes]:
        return {self._place(item, "_SRCIMG"): item.meta[SOURCE]()}

    def official(self, images: Path) -> str:
        words = _COMMANDS.format(method=METHOD, images=shlex.quote(str(images)), language=self.language)
        return words + _CHINESE * (self.language == "cn")

    def _place(self, item: Item, end: str) -> PurePosixPath:
        return PurePosixPath(METHOD, "fullset", item.category, self.language, f"{item.id}{end}.png")


def open_task(data: Path | None, options: Mapping[str, str]) -> GEdit:
    """Option: `language` of the instructions, en or cn."""
    language = read_options("gedit", options, {"language": one_of(*LANGUAGES)}).get("language", "en")
    rows = read_rows(data)
    chosen = [row for row in rows if row.entry.fault or row.entry.values.get("instruction_language") == language]
    if not chosen:
        raise Blip3oError(f"None of the {len(rows):,} rows has the instruction_language {language!r}. Check --data.")
    items = make_items([row.entry for row in chosen], lambda number, entry: _item(chosen[number]))
    return GEdit(items, language=language)


def _item(row: ImageRow) -> Item:
    entry = row.entry
    key, kind = entry.text("key"), entry.text("task_type")
    if kind not in KINDS:
        raise Blip3oError(f"task_type is {shown(repr(kind), 80)}. It must be one of {', '.join(KINDS)}.")
    inside = entry.values.get(INTERSECTION)
    if not isinstance(inside, bool):
        raise Blip3oError(f"{INTERSECTION} is {shown(repr(inside), 80)}. It must be true or false.")
    reference = Reference(f"the image of {entry.where}", partial(row.image, "input_image_raw"))
    # Read now: one that is missing is named before an image is made, and a judge's score is of this very source.
    digest = hashlib.sha256(row.image("input_image")).hexdigest()
    facts = {INTERSECTION: inside, "input_image_sha256": digest}
    source = partial(_png, row, entry.where)
    return Item(key, entry.text("instruction"), kind, (reference,), facts, {SOURCE: source})


def _png(row: ImageRow, where: str) -> bytes:
    """`input_image` as a PNG file, with the pixels that the set has: no colour is converted."""
    data = row.image("input_image")
    if data.startswith(b"\x89PNG"):
        return data
    file = io.BytesIO()
    read_image(data, f"input_image of {where}", colours=False).pixels.save(file, "PNG", compress_level=1)
    return file.getvalue()
