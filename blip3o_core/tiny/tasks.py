"""The tiny world's tasks for reinforcement learning, and what its judge compares an image with.

Every kind of scene or edit in turn, so that none is learnt at the cost of another. Held-out tasks are of the other
split, with a seed that evaluations do not use. Images are square: rollouts of one run have one size.
"""

from dataclasses import replace

import torch
from PIL import Image

from ..training.rl.tasks import Task
from .evaluation import SIDES
from .scenes.captions import caption
from .scenes.edits import edit_kinds, instruction, make_edit, may_change
from .scenes.rasterize import rasterize
from .scenes.spec import spec_of
from .scenes.world import SECOND, World, make_scene

WORLD = replace(SECOND, oblong=0.0, coloured=0.45)
EDIT_WORLD = replace(SECOND, oblong=0.0)
SEED = 61  # of the training tasks; no other stage has it
HELD_OUT_SEED = 62


def image_tasks(count: int, split: str, seed: int, world: World = WORLD) -> list[Task]:
    """Captions of scenes; held-out ones in plain words."""
    plain, seed, split = _of(split, seed)
    tasks = []
    for index in range(count):
        category = world.categories[index % len(world.categories)]
        scene = make_scene(seed, split, index, world, category)
        tasks.append(Task(caption(scene, index, plain), category, meta={"spec": spec_of(scene)}))
    return tasks


def edit_tasks(count: int, split: str, seed: int, world: World = EDIT_WORLD, side: int = SIDES[2]) -> list[Task]:
    """Edits of scenes, with the pixels that may change as masks; held-out ones in plain words."""
    plain, seed, split = _of(split, seed)
    tasks, kinds = [], edit_kinds(world)
    for index in range(count):
        kind = kinds[index % len(kinds)]
        edit = make_edit(seed, split, index, world, kind)
        sources = tuple(Image.fromarray(rasterize(scene, side)) for scene in edit.sources)
        mask = torch.from_numpy(may_change(edit, side)).float()
        tasks.append(Task(instruction(edit, index, plain), kind, sources, mask, {"edit": edit}))
    return tasks


def all_tasks(count: int, split: str, seed: int) -> list[Task]:
    """Both, one of each category and then one of each kind of edit: what is learnt of one must not cost the other.

    Groups of edits are named "edit ...": there is a category and a kind called "background".
    """
    categories, kinds = len(WORLD.categories), len(edit_kinds(EDIT_WORLD))
    rounds = -(-count // (categories + kinds))
    images = image_tasks(rounds * categories, split, seed)
    edits = [replace(task, group=f"edit {task.group}") for task in edit_tasks(rounds * kinds, split, seed)]
    found: list[Task] = []
    for turn in range(rounds):
        found += images[turn * categories : (turn + 1) * categories] + edits[turn * kinds : (turn + 1) * kinds]
    return found[:count]


def _of(split: str, seed: int) -> tuple[bool, int, str]:
    """(whether captions are plain, the seed of the scenes, their split)."""
    held_out = split == "held_out"
    return held_out, HELD_OUT_SEED if held_out else SEED + seed, "held_back" if held_out else "train"
