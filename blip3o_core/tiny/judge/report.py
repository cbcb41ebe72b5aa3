"""How good the judge is, measured: on right pictures and on ones with a fault, crisp and as a model draws them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from ...errors import Blip3oError
from ..scenes.edits import EDIT_KINDS, Edit, make_edit
from ..scenes.rasterize import rasterize
from ..scenes.spec import Verdict, spec_of
from ..scenes.world import CATEGORIES, TEXT, World, make_scene
from .corruptions import CORRUPTIONS, corrupt
from .degradation import Degradation, degrade, fit_degradation
from .judge import judge_edit, judge_image

RIGHT, CAUGHT = 0.995, 0.99  # the gates, over all rows of a table
RAREST = 60  # scenes to look through for each fault; those of one category come up once in nine
# title -> PSNR, colours off by, whether the gates must hold
SOFTNESS = {
    "clean": (None, 0.0, True),
    "32 dB": (32.0, 0.0, True),
    "28 dB": (28.0, 0.0, False),
    "32 dB, 10 % off": (32.0, 0.1, False),
}
Trial = tuple[np.ndarray, Callable[[np.ndarray], Verdict]]


def measure(count: int, side: int, seed: int = 0, world: World | None = None) -> tuple[str, bool]:
    """Tables as text, and whether the gates hold: `count` true and `count` wrong pictures, and as many of edits."""
    if count < 1:
        raise Blip3oError(f"--count is {count}; at least 1 picture must be judged.")
    world = world or World()
    tables = (
        ("true pictures", True, (*CATEGORIES, TEXT), true_pictures),
        ("planted wrong pictures", False, tuple(CORRUPTIONS), wrong_pictures),
        ("true edits", True, EDIT_KINDS, true_edits),  # colours that go off do change what should stay, so not those
        ("wrong edits", False, tuple(WRONG_EDITS), wrong_edits),
    )
    how = degradations(side, world)
    lines, holds = [f"side {side}, {'snapped' if world.snapped else 'continuous'}, seed {seed}"], True
    lines += [f"{name}: blur {way.blur:.2f} px, noise {way.noise:.1f} of 255" for name, way in how.items() if way.blur]
    for title, wanted, names, trials in tables:
        ways = {name: way for name, way in how.items() if not (way.colours and title == "true edits")}
        each = -(-count // len(names))
        rows = {name: _row(trials(name, each, side, seed, world), wanted, ways) for name in names}
        rows["all"] = {key: np.sum([row[key] for row in rows.values()], 0) for key in ways}
        gate = RIGHT if wanted else CAUGHT
        lines += ["", f"{title}: % {'judged right' if wanted else 'caught'}; gate {100 * gate:g}, clean and at 32 dB"]
        lines.append(f"{'':24}{'n':>6}" + "".join(f"{key:>18}" for key in ways))
        for name, row in rows.items():
            shares = "".join(f"{100 * good / n:18.2f}" for good, n in row.values())
            lines.append(f"{name:24}{next(iter(row.values()))[1]:6}{shares}")
        holds = holds and all(good / n >= gate for key, (good, n) in rows["all"].items() if SOFTNESS[key][2])
    lines += ["", "the gates hold" if holds else "THE GATES DO NOT HOLD"]
    return "\n".join(lines), holds


@lru_cache(8)
def degradations(side: int, world: World) -> dict[str, Degradation]:
    pictures = [rasterize(make_scene(0, "train", index, world), side) for index in range(100)]
    return {
        title: Degradation() if decibels is None else fit_degradation(pictures, decibels, colours)
        for title, (decibels, colours, _) in SOFTNESS.items()
    }


def _row(trials: Iterator[Trial], wanted: bool, how: dict[str, Degradation]) -> dict[str, tuple[int, int]]:
    """Title -> (verdicts that are as they should be, verdicts)."""
    verdicts = {title: [] for title in how}
    for index, (picture, check) in enumerate(trials):
        for title, way in how.items():
            verdicts[title].append(check(degrade(picture, way, np.random.default_rng(index))).strict == wanted)
    return {title: (sum(values), len(values)) for title, values in verdicts.items()}


def true_pictures(category: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    for index in range(count):
        scene = make_scene(seed, "train", index, world, category)
        yield rasterize(scene, side), lambda picture, scene=scene: judge_image(picture, spec_of(scene))


def wrong_pictures(fault: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    """Of all captions in turn that the fault contradicts."""

    def planted(index: int):
        scene = make_scene(seed, "train", index, world, (*CATEGORIES, TEXT)[index % 9])
        return corrupt(scene, fault, index), lambda picture: judge_image(picture, spec_of(scene))

    return _first(planted, fault, count, side)


def true_edits(kind: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    for index in range(count):
        edit = make_edit(seed, "train", index, world, kind)
        yield rasterize(edit.target, side), lambda picture, edit=edit: judge_edit(picture, edit)


def wrong_edits(fault: str, count: int, side: int, seed: int, world: World) -> Iterator[Trial]:
    def planted(index: int):
        edit = make_edit(seed, "train", index, world, EDIT_KINDS[index % len(EDIT_KINDS)])
        return WRONG_EDITS[fault](edit), lambda picture: judge_edit(picture, edit)

    return _first(planted, fault, count, side)


def _first(planted: Callable, fault: str, count: int, side: int) -> Iterator[Trial]:
    """The first `count` wrong scenes among those of the indices 0, 1, ... that can have the fault."""
    done = 0
    for index in range(RAREST * count):
        wrong, check = planted(index)
        if wrong is not None:
            yield rasterize(wrong, side), check
            done += 1
            if done == count:
                return
    raise Blip3oError(f"{fault!r} was possible in only {done} of {RAREST * count} scenes. Is its demand still checked?")


def _not_done(edit: Edit):
    return edit.source if edit.kind != "keep" else None


def _kept_missing(edit: Edit):
    """The edit is done, and an object that should have stayed is gone."""
    objects = edit.target.objects
    kept = next((obj for obj in objects if obj in edit.source.objects), None)
    return kept and replace(edit.target, objects=tuple(obj for obj in objects if obj != kept))


def _kept_moved(edit: Edit):
    """Done, and one that should have stayed is a little elsewhere: about half its radius, so mostly still in place."""
    kept = next((obj for obj in edit.target.objects if obj in edit.source.objects), None)
    if kept is None:
        return None
    moved = replace(kept, x=kept.x + (12 if kept.x < 64 else -12))
    return replace(edit.target, objects=tuple(moved if obj == kept else obj for obj in edit.target.objects))


def _ground_changed(edit: Edit):
    used = {obj.colour for obj in edit.target.objects} | {edit.target.background}
    return replace(edit.target, background=next(c for c in ("white", "green", "cyan", "red", "pink") if c not in used))


WRONG_EDITS = {
    "not done": _not_done,
    "kept object missing": _kept_missing,
    "kept object moved": _kept_moved,
    "background changed": _ground_changed,
}
