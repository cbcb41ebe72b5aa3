"""Edits of unseen scenes of the tiny world. The judge knows the exact image that an edit must become."""

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from ...tiny.edit_evaluation import Settings, make_edits
from ...tiny.evaluation import SIDES
from ...tiny.scenes.edits import EDIT_KINDS, Edit, may_change
from ...tiny.scenes.rasterize import rasterize
from ...tiny.scenes.world import Scene
from ..interface import Item, Reference
from .options import read_options, refuse_data, whole
from .tiny import TinyJudge, TinyTask, read_edition

COUNT = 60  # ten of each kind
_OPTIONS = {"count": whole(len(EDIT_KINDS), 2**20), "edition": read_edition}

# `outside`: the error of the pixels that must not change, of 255.
EDIT_JUDGE = TinyJudge(
    {"right": (0, 1), "objects": (0, 1), "outside": (0, 255)},
    {"right": "strict", "objects": "layout", "outside": "outside"},
)
# `surfaces`: the same of pixels with a texture, where there are some.
SURFACE_JUDGE = TinyJudge(
    {**EDIT_JUDGE.measures, "surfaces": (0, 255)}, {**EDIT_JUDGE.attributes, "surfaces": "surfaces"}
)


def open_task(data: Path | None, options: Mapping[str, str]) -> TinyTask:
    """Options: `count` of edits, and the `edition` of the world."""
    refuse_data("tiny-edits", data)
    given = {"count": COUNT, **read_options("tiny-edits", options, _OPTIONS)}
    settings = Settings(**given)
    side = SIDES[settings.edition]
    items = [_item(number, *pair, side) for number, pair in enumerate(make_edits(settings))]
    judge = EDIT_JUDGE if settings.edition == 1 else SURFACE_JUDGE
    return TinyTask(items, "tiny-edits", str(settings.edition), judge=judge)


def _item(number: int, edit: Edit, text: str, side: int) -> Item:
    """`side`: pixels of a square image."""
    name = f"{number:04d}"
    references = tuple(
        Reference(f"image {k} of item {name}", partial(_png, scene, side)) for k, scene in enumerate(edit.sources, 1)
    )
    return Item(name, text, edit.kind, references, meta={"edit": edit}, mask=partial(_mask, edit, side))


def _png(scene: Scene, side: int) -> bytes:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(rasterize(scene, side)).save(written, "PNG")
    return written.getvalue()


def _mask(edit: Edit, side: int) -> torch.Tensor:
    return torch.from_numpy(may_change(edit, side)).float()
