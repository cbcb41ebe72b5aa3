"""A world small enough to train in whole on a laptop, with a judge that knows exactly what is right.

`make_scene` picks a scene from a seed, `caption` says it in words, `rasterize` draws it in pixels. `spec_of` lists what
the caption asks for, and `judge_image` checks any image against that list. Edits have `make_edit`, `instruction`,
`spec_after` and `judge_edit`.

    blip3o recipe report                 # measures the judge
    blip3o recipe sheet --out OUT.png    # shows the world
"""

from .judge.judge import judge_edit, judge_image
from .scenes.captions import caption
from .scenes.edits import EDIT_KINDS, Edit, instruction, make_edit, may_change, spec_after
from .scenes.rasterize import DEFAULT_SIDE, rasterize
from .scenes.spec import Expected, Spec, Verdict, spec_of
from .scenes.world import CATEGORIES, EDIT, SPLITS, TEXT, Scene, World, make_scene

__all__ = [
    "CATEGORIES",
    "DEFAULT_SIDE",
    "EDIT",
    "EDIT_KINDS",
    "SPLITS",
    "TEXT",
    "Edit",
    "Expected",
    "Scene",
    "Spec",
    "Verdict",
    "World",
    "caption",
    "instruction",
    "judge_edit",
    "judge_image",
    "make_edit",
    "make_scene",
    "may_change",
    "rasterize",
    "spec_after",
    "spec_of",
]
