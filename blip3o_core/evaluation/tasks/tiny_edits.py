"""Edits of unseen scenes of the tiny world. The judge knows the exact image that an edit must become."""

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from ...tiny.edit_evaluation import Settings, make_edits
from ...tiny.scenes.edits import EDIT_KINDS, Edit, may_change
from ...tiny.scenes.rasterize import rasterize
from ..interface import Item, Reference
from .options import read_options, refuse_data, whole
from .tiny import TinyJudge, TinyTask

COUNT = 60  # ten of each kind
_OPTIONS = {"count": whole(len(EDIT_KINDS), 2**20)}

# `outside`: the error of the pixels that must not change, of 255.
EDIT_JUDGE = TinyJudge(
    {"right": (0, 1), "objects": (0, 1), "outside": (0, 255)},
    {"right": "strict", "objects": "layout", "outside": "outside"},
)


def open_task(data: Path | None, options: Mapping[str, str]) -> TinyTask:
    """Option: `count` of edits."""
    refuse_data("tiny-edits", data)
    given = {"count": COUNT, **read_options("tiny-edits", options, _OPTIONS)}
    items = [_item(number, *pair) for number, pair in enumerate(make_edits(Settings(**given)))]
    return TinyTask(items, "tiny-edits", judge=EDIT_JUDGE)


def _item(number: int, edit: Edit, text: str) -> Item:
    name = f"{number:04d}"
    references = (Reference(f"the image of item {name}", partial(_png, edit)),)
    return Item(name, text, edit.kind, references, meta={"edit": edit}, mask=partial(_mask, edit))


def _png(edit: Edit) -> bytes:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(rasterize(edit.source)).save(written, "PNG")
    return written.getvalue()


def _mask(edit: Edit) -> torch.Tensor:
    return torch.from_numpy(may_change(edit)).float()
