"""The tiny world's tasks for reinforcement learning, and what its judge compares an image with.

Every kind of scene or edit in turn, so that none is learnt at the cost of another. Held-out tasks are of the other
split, with a seed that evaluations do not use.
"""

import torch
from PIL import Image

from ..training.rl.tasks import Task
from .scenes.captions import caption
from .scenes.edits import EDIT_KINDS, instruction, make_edit, may_change
from .scenes.rasterize import rasterize
from .scenes.spec import spec_of
from .scenes.world import CATEGORIES, World, make_scene

WORLD = World(low_contrast=False, coloured=0.45)  # that of the other stages
EDIT_WORLD = World(low_contrast=False)
SEED = 61  # of the training tasks; no other stage has it
HELD_OUT_SEED = 62


def image_tasks(count: int, split: str, seed: int) -> list[Task]:
    """Captions of scenes; held-out ones in plain words."""
    plain, seed, split = _of(split, seed)
    tasks = []
    for index in range(count):
        category = CATEGORIES[index % len(CATEGORIES)]
        scene = make_scene(seed, split, index, WORLD, category)
        tasks.append(Task(caption(scene, index, plain), category, meta={"spec": spec_of(scene)}))
    return tasks


def edit_tasks(count: int, split: str, seed: int) -> list[Task]:
    """Edits of scenes, with the pixels that may change as masks; held-out ones in plain words."""
    plain, seed, split = _of(split, seed)
    tasks = []
    for index in range(count):
        kind = EDIT_KINDS[index % len(EDIT_KINDS)]
        edit = make_edit(seed, split, index, EDIT_WORLD, kind)
        source = Image.fromarray(rasterize(edit.source))
        mask = torch.from_numpy(may_change(edit)).float()
        tasks.append(Task(instruction(edit, index, plain), kind, (source,), mask, {"edit": edit}))
    return tasks


def _of(split: str, seed: int) -> tuple[bool, int, str]:
    """(whether captions are plain, the seed of the scenes, their split)."""
    held_out = split == "held_out"
    return held_out, HELD_OUT_SEED if held_out else SEED + seed, "held_back" if held_out else "train"
