"""ImgEdit's basic edits: nine kinds, one image each; a model that sees images gives three scores.

Source: github.com/PKU-YuanGroup/ImgEdit, Benchmark/Basic: basic_edit.json, basic_bench.py, step1_get_avgscore.py,
step2_typescore.py. Its scripts give a mean for each kind and no overall number; here it is the mean of the kinds.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...errors import Blip3oError, shown
from ...files import read_bytes
from ...images.reader import MAX_BYTES, REMEDY
from ..interface import Item, Reference
from ..items import Entry, find_file, make_items, read_entries
from .options import read_options
from .prompts import PromptTask, Published

_NAMES = ("basic_edit.json", "singleturn.json")
_REMEDY = (
    "Give --data Benchmark/Basic/basic_edit.json of github.com/PKU-YuanGroup/ImgEdit, and --option images=FOLDER with "
    "the folder singleturn of its Benchmark.tar, which is on the Hugging Face hub as sysuyy/ImgEdit."
)
_PUBLISHED = Published("PKU-YuanGroup/ImgEdit", "547185d12c08267a862b94248576e1746e479937", 737, "268c21724c9a559b")
_COMMANDS = """\
# In Benchmark/Basic of a clone of github.com/PKU-YuanGroup/ImgEdit, with your key and address in basic_bench.py.
# ORIGINALS: the folder of the original images.
python basic_bench.py --edit_json basic_edit.json --origin_img_root ORIGINALS --prompts_json prompts.json \\
    --num_processes 32 --result_img_folder {images}
python step1_get_avgscore.py --result_json {images}/result.json --average_score_json {images}/average_score.json
python step2_typescore.py --basic_edit basic_edit.json --average_score_json {images}/average_score.json \\
    --typescore_json {images}/typescore.json"""


@dataclass(frozen=True)
class ImgEdit(PromptTask):
    name: str = "imgedit"

    @property
    def published(self) -> Published:
        return _PUBLISHED

    @property
    def weights(self) -> Mapping[str, float]:
        return {item.category: 1.0 for item in self.items}

    def file(self, item: Item, sample: int) -> PurePosixPath:
        """The scripts know one image of each edit; further ones lie beside it."""
        return PurePosixPath(f"{item.id}.png" if sample == 0 else f"{item.id}-{sample}.png")

    def official(self, images: Path) -> str:
        commands = _COMMANDS.replace("{images}", shlex.quote(str(images)))
        return f"{self.published.note(self.items)}\n{commands}"


def open_task(data: Path | None, options: Mapping[str, str]) -> ImgEdit:
    """Option: `images`, the folder of the original images; without it that of the file of edits."""
    given = read_options("imgedit", options, {"images": Path})
    edits = find_file(data, _NAMES, _REMEDY)
    originals = given.get("images", edits.parent).expanduser()
    return ImgEdit(make_items(read_entries(edits), lambda number, entry: _item(entry, originals)))


def _item(entry: Entry, originals: Path) -> Item:
    name = PurePosixPath(entry.text("id"))
    if name.is_absolute() or ".." in name.parts:
        raise Blip3oError(
            f"id is {shown(repr(str(name)), 80)}. It must be the name of a file below {shown(originals)}."
        )
    path = originals / name
    if not path.is_file():
        raise Blip3oError(f"{shown(path)} does not exist. Check --option images.")
    reference = Reference(str(path), partial(read_bytes, path, REMEDY, MAX_BYTES))
    return Item(entry.key, entry.text("prompt"), entry.text("edit_type"), (reference,), {"source": str(name)})
