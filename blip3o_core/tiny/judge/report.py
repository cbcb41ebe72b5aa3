"""Measures the judge: how many right images it accepts and how many wrong ones it catches, crisp and degraded.

Degraded images are softer, noisier and a little off in colour, like those of a model.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice

import numpy as np

from ...errors import Blip3oError
from ..scenes.edits import COMPOSE, Edit, edit_kinds, make_edit, spec_after
from ..scenes.rasterize import rasterize
from ..scenes.spec import Verdict, compare, detection_of, spec_of
from ..scenes.textures import SOLID
from ..scenes.world import CANVASES, CATEGORIES, TEXT, Scene, World, make_scene
from .corruptions import corrupt, corruptions
from .degradation import Degradation, degrade, fit_degradation
from .judge import judge_edit, judge_image

MIN_ACCEPTED, MIN_CAUGHT = 0.995, 0.99  # the gates, over all rows of a table
NAMED_TEXTURES = "named textures"  # a row of its own, as are the shapes of images
MAX_TRIES = 200  # scenes to search for each corrupted one; those of one category come up once in nine
_COLUMN = 18


@dataclass(frozen=True)
class Level:
    """How far images are degraded, and whether the gates must hold there."""

    psnr: float | None = None  # dB, before colours shift; None: crisp
    colour_shift: float = 0.0
    gated: bool = False


LEVELS = {
    "clean": Level(gated=True),
    "32 dB": Level(32.0, gated=True),
    "28 dB": Level(28.0),
    "32 dB, 10 % off": Level(32.0, 0.1),
}
Trial = tuple[np.ndarray, Callable[[np.ndarray], Verdict]]  # an image, and what judges it
Counts = dict[str, tuple[int, int]]  # by level: verdicts that are as expected, all verdicts


def measure(count: int, side: int, seed: int = 0, world: World | None = None) -> tuple[str, bool]:
    """Tables as text, and whether the gates hold, over `count` true and `count` corrupted images, and as many edits."""
    if count < 1:
        raise Blip3oError(f"--count is {count}. At least 1 image of each kind must be judged.")
    world = world or World()
    # A shift of all colours changes what an edit must keep, so true edits are not judged under one.
    plans = (
        ("true images", True, true_rows(world), true_images),
        ("corrupted images", False, corruptions(world), corrupted_images),
        ("true edits", True, edit_kinds(world), true_edits),
        ("wrong edits", False, wrong_rows(world), wrong_edits),
    )
    levels = degradations(side, world)
    edition = "second edition" if world.lettered else "snapped" if world.snapped else "continuous"
    lines = [f"side {side}, {edition}, seed {seed}"]
    lines += [
        f"{name}: blur {one.blur:.2f} px, noise {one.noise:.1f} of 255" for name, one in levels.items() if one.blur
    ]
    all_hold = True
    for title, expected, names, trials in plans:
        used = {name: one for name, one in levels.items() if not (one.colour_shift and title == "true edits")}
        each = -(-count // len(names))
        rows = {name: _count(trials(name, each, side, seed, world), expected, used) for name in names}
        rows["all"] = {level: np.sum([row[level] for row in rows.values()], 0) for level in used}
        gate = MIN_ACCEPTED if expected else MIN_CAUGHT
        lines += ["", f"{title}: % {'accepted' if expected else 'caught'}; gate {100 * gate:g}, clean and at 32 dB"]
        lines += _table(rows)
        all_hold &= all(good / n >= gate for level, (good, n) in rows["all"].items() if LEVELS[level].gated)
    drawing, judging = costs(side, seed, world)
    lines += ["", f"CPU time: {1000 * drawing:.1f} ms to rasterize an image, {1000 * judging:.1f} ms to judge it"]
    lines += ["", "the gates hold" if all_hold else "THE GATES DO NOT HOLD"]
    return "\n".join(lines), bool(all_hold)


def costs(side: int, seed: int, world: World, count: int = 100) -> tuple[float, float]:
    """CPU seconds to make and draw an image, and to judge it."""
    began = time.process_time()
    scenes = [make_scene(seed, "train", index, world) for index in range(count)]
    images = [rasterize(scene, side) for scene in scenes]
    drawn = time.process_time()
    for image, scene in zip(images, scenes, strict=True):
        judge_image(image, spec_of(scene))
    return (drawn - began) / count, (time.process_time() - drawn) / count


def _table(rows: dict[str, Counts]) -> list[str]:
    levels = next(iter(rows.values()))
    lines = [f"{'':24}{'n':>6}" + "".join(f"{level:>{_COLUMN}}" for level in levels)]
    for name, counts in rows.items():
        _, n = next(iter(counts.values()))
        percentages = (100 * good / n for good, n in counts.values())
        lines.append(f"{name:24}{n:6}" + "".join(f"{value:{_COLUMN}.2f}" for value in percentages))
    return lines


@lru_cache(8)
def degradations(side: int, world: World) -> dict[str, Degradation]:
    """The degradation of each level, fitted to the scenes of `world`."""
    images = [rasterize(make_scene(0, "train", index, world), side) for index in range(100)]
    return {
        name: Degradation() if level.psnr is None else fit_degradation(images, level.psnr, level.colour_shift)
        for name, level in LEVELS.items()
    }


def _count(trials: Iterator[Trial], expected: bool, levels: dict[str, Degradation]) -> Counts:
    verdicts = {level: [] for level in levels}
    for index, (image, judge) in enumerate(trials):
        for level, degradation in levels.items():
            degraded = degrade(image, degradation, np.random.default_rng(index))
            verdicts[level].append(judge(degraded).strict == expected)
    return {level: (sum(values), len(values)) for level, values in verdicts.items()}


def true_rows(world: World) -> tuple[str, ...]:
    return (*CATEGORIES, TEXT, *(CANVASES if world.oblong else ()), *((NAMED_TEXTURES,) if world.textured else ()))


def true_images(row: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    """Images of a category, of a shape, or with textures that their captions name."""
    category = row if row in (*CATEGORIES, TEXT) else None
    if row in CANVASES:
        world = replace(world, oblong=1.0)
    scenes = (make_scene(seed, "train", index, world, category) for index in range(MAX_TRIES * count))
    if row in CANVASES:
        scenes = (scene for scene in scenes if scene.canvas == CANVASES[row])
    elif row == NAMED_TEXTURES:
        scenes = (scene for scene in scenes if scene.textures_named)
    for scene in islice(scenes, count):
        yield rasterize(scene, side), partial(judge_image, spec=spec_of(scene))


def corrupted_images(corruption: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    """Images with the corruption, of scenes of all categories in turn that can have it."""

    def make(index: int):
        scene = make_scene(seed, "train", index, world, (*CATEGORIES, TEXT)[index % 9])
        return corrupt(scene, corruption, index), lambda image: judge_image(image, spec_of(scene))

    return _first(make, corruption, count, side)


def true_edits(kind: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    for index in range(count):
        edit = make_edit(seed, "train", index, world, kind)
        yield rasterize(edit.target, side), partial(judge_edit, edit=edit)


def wrong_edits(mistake: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    """Images with the mistake, of edits of all kinds in turn in which it can be made."""

    def make(index: int):
        edit = make_edit(seed, "train", index, world, kinds[index % len(kinds)])
        return (WRONG_EDITS | MORE_WRONG_EDITS)[mistake](edit), lambda image: judge_edit(image, edit)

    kinds = edit_kinds(world)

    return _first(make, mistake, count, side)


def _first(make: Callable, what: str, count: int, side: int) -> Iterator[Trial]:
    """The first `count` wrong images; `make(0)`, `make(1)`, ... give a wrong scene or None, and what judges it."""
    done = 0
    for index in range(MAX_TRIES * count):
        scene, judge = make(index)
        if scene is not None:
            yield rasterize(scene, side), judge
            done += 1
            if done == count:
                return
    raise Blip3oError(
        f"{what!r} was possible in only {done} of {MAX_TRIES * count} scenes. Check that the judge still looks for it."
    )


def _not_done(edit: Edit) -> Scene | None:
    return edit.source if edit.kind != "keep" else None


def _kept_missing(edit: Edit) -> Scene | None:
    """The edit is done, but an object that should have stayed is gone."""
    objects = edit.target.objects
    kept = next((obj for obj in objects if obj in edit.source.objects), None)
    return replace(edit.target, objects=tuple(obj for obj in objects if obj != kept)) if kept else None


def _kept_moved(edit: Edit) -> Scene | None:
    """The edit is done, but an object that should have stayed moved by about half its radius."""
    kept = next((obj for obj in edit.target.objects if obj in edit.source.objects), None)
    if kept is None:
        return None
    moved = replace(kept, x=kept.x + (12 if kept.x < edit.target.canvas[0] / 2 else -12))
    return replace(edit.target, objects=tuple(moved if obj == kept else obj for obj in edit.target.objects))


def _background_changed(edit: Edit) -> Scene:
    used = {obj.colour for obj in edit.target.objects} | {edit.target.background}
    return replace(edit.target, background=next(c for c in ("white", "green", "cyan", "red", "pink") if c not in used))


def _other_object(edit: Edit) -> Scene | None:
    """A composition with another object of image 1 in place of the one that was asked for."""
    if edit.kind != COMPOSE:
        return None
    wanted, kept = edit.target.objects
    other = next((obj for obj in edit.source.objects if obj.shape != wanted.shape), None)
    wrong = replace(edit.target, objects=(replace(other, x=wanted.x, y=wanted.y), kept)) if other else None
    return None if wrong is None or compare(detection_of(wrong), spec_after(edit)).strict else wrong


def _textures_lost(edit: Edit) -> Scene | None:
    """The edit is done, but a textured ground is solid."""
    if edit.target.texture in (SOLID,) or edit.target.texture.kind in ("dots", "gradient"):
        return None  # of these so little is lost that the rest of the image may still count as unchanged
    return replace(edit.target, texture=SOLID)


def wrong_rows(world: World) -> tuple[str, ...]:
    return tuple(WRONG_EDITS) + (tuple(MORE_WRONG_EDITS) if world.lettered else ())


WRONG_EDITS = {
    "not done": _not_done,
    "kept object missing": _kept_missing,
    "kept object moved": _kept_moved,
    "background changed": _background_changed,
}
# Of the second edition
MORE_WRONG_EDITS = {"another object of image 1": _other_object, "texture of the ground lost": _textures_lost}
