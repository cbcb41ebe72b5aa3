"""Tasks of reinforcement learning: the prompts that images are made for, and what rewards judge the images by.

They come from a text file with a prompt on each line, from a JSONL file, or from a function of a Python module.
"""

import hashlib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...editing.masks import check_mask
from ...editing.references import MAX_REFERENCES
from ...errors import Blip3oError, bullet_list, did_you_mean, first_line, shown
from ...files import parse_json, read_lines
from ...images.preprocess import to_tensor
from ...images.reader import open_image, open_mask
from ...rewards.load import own_module

if TYPE_CHECKING:
    from PIL.Image import Image

# Worlds with tasks of their own, in rooms above this one: the module, seen from here, and the function in it.
WORLDS = {
    "tiny": "...tiny.tasks:image_tasks",
    "tiny-edits": "...tiny.tasks:edit_tasks",
    "tiny-all": "...tiny.tasks:all_tasks",
}
KEYS = ("prompt", "group", "references", "mask", "meta")
GROUP = "all"  # of tasks that name none
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*")
_MOST = 10  # faulty lines of a file that are named at once
_REMEDY = (
    "Give a UTF-8 text file with a prompt on each line, a .jsonl file with a JSON object on each line, or a world: "
    f"{', '.join(WORLDS)}."
)


@dataclass(frozen=True)
class Task:
    """One prompt. With references it is the instruction of an edit."""

    prompt: str
    group: str = GROUP  # logs have a pass rate for each group
    references: "tuple[Path | Image, ...]" = ()
    mask: "Path | torch.Tensor | None" = None  # (H, W), 1 where an edit may change its first reference; None: anywhere
    meta: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""  # in which file and line it stands

    def named(self, error: Exception) -> Blip3oError:
        """An error about this task, with the place of the task."""
        return Blip3oError(f"{self.place}: {error}" if self.place else str(error))


@dataclass(frozen=True)
class Opened:
    """A task's images, read."""

    references: "tuple[Image, ...]"
    pixels: tuple[torch.Tensor, ...]  # (H, W, 3) in [0, 1], of the references
    mask: torch.Tensor | None


@dataclass(frozen=True)
class TaskSet:
    """The tasks that a run trains on and those that it is measured with. `identity`: equal for equal tasks."""

    train: Sequence[Task]
    held_out: Sequence[Task]
    identity: str


TaskSource = Callable[[int, str, int], Sequence[Task]]  # (count, "train" or "held_out", seed) -> tasks


def open_task(task: Task) -> Opened:
    """Read the images of a task. Raises Blip3oError, which names the task's line, where one is damaged."""
    try:
        images = tuple(open_image(one) if isinstance(one, Path) else one for one in task.references)
        mask = check_mask(open_mask(task.mask), images[0].size) if isinstance(task.mask, Path) else task.mask
    except Blip3oError as error:
        raise task.named(error) from error
    return Opened(images, tuple(to_tensor(image)[0] for image in images), mask)


def find_tasks(source: str, held_out: int | str, count: int, seed: int, own_code: bool = False) -> TaskSet:
    """The tasks that `source` and `held_out` name; `count`: how many a run trains on at most, without repeating any.

    `held_out` is a number or a file. A number is split off a file, evenly over its lines; a function makes as many.
    `own_code` allows a function of the user. Raises Blip3oError, which names all faulty lines of a file.
    """
    made = _function_of(source, own_code)
    if made is not None:
        train = _call(made, source, count, "train", seed)
    else:
        train = read_tasks(Path(source), "tasks")
    if isinstance(held_out, str):
        kept = read_tasks(Path(held_out), "held_out")
    elif made is not None:
        kept = _call(made, source, held_out, "held_out", seed)
    else:
        train, kept = _split(train, held_out, source)
    # More tasks may follow when a run is made longer: those that a function makes are compared at the beginning.
    return TaskSet(train, kept, identity_of(train if made is None else train[:1], kept))


def identity_of(*some: Sequence[Task]) -> str:
    """Equal for tasks with the same prompts, groups, meta and names of files."""
    facts = [
        [(task.prompt, task.group, *map(_name, task.references), _name(task.mask), repr(task.meta)) for task in tasks]
        for tasks in some
    ]
    return hashlib.sha256(repr(facts).encode("utf-8", "replace")).hexdigest()


def _name(image) -> str:
    return image.name if isinstance(image, Path) else type(image).__name__


def read_tasks(path: Path, setting: str) -> list[Task]:
    """The tasks in a file. Raises Blip3oError, which names `setting` and all faulty lines."""
    try:
        lines = read_lines(path, _REMEDY)
    except Blip3oError as error:
        raise Blip3oError(f"{setting}: {error}") from error
    entries = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise Blip3oError(f"{setting} {shown(path)} contains no prompts. {_REMEDY}")
    tasks, faults = [], []
    for number, line in entries:
        place = f"{path.name}, line {number}"
        try:
            tasks.append(_task(line, path.parent, place) if path.suffix == ".jsonl" else Task(line, place=place))
        except Blip3oError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        raise Blip3oError(f"{setting} {shown(path)} has faulty lines.\n{bullet_list(faults, _MOST)}")
    return tasks


def _task(line: str, base: Path, place: str) -> Task:
    entry = parse_json(line, "the line", f"It starts with {line[:40]!r}.")
    if not isinstance(entry, dict):
        raise Blip3oError(f"{line[:40]!r} is not a JSON object. Write {{...}} with {', '.join(KEYS)}.")
    if unknown := [key for key in entry if key not in KEYS]:
        hint = did_you_mean(unknown[0], KEYS) or f"A line can have {', '.join(KEYS)}."
        raise Blip3oError(f"unknown key {shown(repr(unknown[0]))}. {hint}")
    prompt, group, meta = entry.get("prompt"), entry.get("group", GROUP), entry.get("meta", {})
    if not isinstance(prompt, str) or not prompt.strip():
        raise Blip3oError(f"prompt is {shown(repr(prompt))}. Give the text that an image is made for.")
    if not isinstance(group, str) or not group or not group.isprintable() or len(group) > 60:
        raise Blip3oError(f"group is {shown(repr(group))}. Give a short name; logs have a pass rate for each group.")
    if not isinstance(meta, dict):
        raise Blip3oError(f"meta is {shown(repr(meta))}. Give a JSON object with what the rewards need.")
    references, mask = _files(entry, base)
    return Task(prompt, group, references, mask, meta, place)


def _files(entry: dict, base: Path) -> tuple[tuple[Path, ...], Path | None]:
    """The references and the mask of a line."""
    references, mask = entry.get("references", []), entry.get("mask")
    if not isinstance(references, list) or not all(isinstance(one, str) and one for one in references):
        raise Blip3oError(f'references are {shown(references)}. Give a list of paths: "references": ["a.png"].')
    if len(references) > MAX_REFERENCES:
        raise Blip3oError(f"there are {len(references)} references. An edit takes 1 to {MAX_REFERENCES}.")
    if mask is not None and (not isinstance(mask, str) or not mask):
        raise Blip3oError(f"mask is {shown(repr(mask))}. Give a path, or leave mask out.")
    if mask is not None and not references:
        raise Blip3oError("there is a mask but no references. A mask says where an edit may change its first one.")
    paths = [base / one for one in (*references, *([mask] if mask else []))]
    for path in paths:
        if not path.is_file():
            raise Blip3oError(f"{shown(path)} is not a file. Paths are relative to the folder of the list.")
    return tuple(paths[: len(references)]), paths[-1] if mask else None


def _split(tasks: Sequence[Task], count: int, source: str) -> tuple[list[Task], list[Task]]:
    if count >= len(tasks):
        raise Blip3oError(
            f"held_out is {count}, but tasks {shown(source)} has {len(tasks)} prompts. Give more prompts, or set "
            "held_out lower."
        )
    chosen = {(2 * k + 1) * len(tasks) // (2 * count) for k in range(count)}
    return (
        [task for number, task in enumerate(tasks) if number not in chosen],
        [task for number, task in enumerate(tasks) if number in chosen],
    )


def _function_of(source: str, own_code: bool) -> TaskSource | None:
    """The function that a source names; None for a file."""
    name = WORLDS.get(source, source)
    if source not in WORLDS and (Path(source).exists() or not _FUNCTION.fullmatch(source)):
        return None
    if source not in WORLDS and not own_code:
        raise Blip3oError(
            f"tasks is {shown(source)}, a function. Only a settings file of the command line may run own code: a "
            "workflow could come from anybody. Give a file of prompts."
        )
    module, _, function = name.rpartition(":")
    if source in WORLDS:
        return getattr(importlib.import_module(module, __package__), function)
    found = getattr(own_module(module, f"tasks is {shown(source)}"), function, None)
    if found is None:
        raise Blip3oError(f"tasks is {shown(source)}, but that module has no {function!r}. Correct the name.")
    return found


def _call(function: TaskSource, source: str, count: int, split: str, seed: int) -> list[Task]:
    try:
        tasks = list(function(count, split, seed))
    except Blip3oError:
        raise
    except Exception as error:  # the user's own code
        raise Blip3oError(
            f"{shown(source)} failed: {type(error).__name__}: {shown(first_line(error))}. It must be a function "
            '(count, split, seed) that returns tasks; split is "train" or "held_out".'
        ) from error
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise Blip3oError(f"{shown(source)} must return a list of tasks, but returned {shown(tasks)} for {split!r}.")
    return tasks
