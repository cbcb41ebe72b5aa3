"""A world small enough to train in whole on a laptop, with a judge that knows exactly what is right.

A scene is drawn from a seed (`make_scene`), said in words (`caption`), drawn in pixels (`draw`), and what the words
demand (`demand_of`) is checked in any picture (`judge`). Edits likewise: `make_edit`, `instruction`, `judge_edit`.
`python -m blip3o_core.tiny report` measures the judge, `... sheet OUT.png` shows the world.
"""

from .judge.judge import judge_edit, judge_image
from .scenes.captions import caption
from .scenes.edits import KINDS, Edit, demand_after, instruction, make_edit, may_change
from .scenes.rasterize import DEFAULT_SIDE, draw
from .scenes.spec import Demand, Verdict, Wanted, demand_of
from .scenes.world import CATEGORIES, EDIT, SPLITS, TEXT, Scene, World, make_scene

__all__ = [
    "CATEGORIES", "DEFAULT_SIDE", "EDIT", "KINDS", "SPLITS", "TEXT", "Demand", "Edit", "Scene", "Verdict", "Wanted",
    "World", "caption", "demand_after", "demand_of", "draw", "instruction", "judge_edit", "judge_image", "make_edit",
    "make_scene", "may_change",
]  # fmt: skip
