"""Edits in the tiny world: what an instruction asks for, what may change, and that the target is just that."""

import re
from itertools import combinations

import numpy as np
import pytest

from blip3o_core.tiny import EDIT_KINDS, World, instruction, make_edit, may_change, rasterize, spec_after
from blip3o_core.tiny.scenes.edits import instructions
from blip3o_core.tiny.scenes.shapes import SHAPES
from blip3o_core.tiny.scenes.spec import compare, detection_of
from blip3o_core.tiny.scenes.world import PALETTE

WORLDS = {"snapped": World(coloured=0.4), "continuous": World(snapped=False, coloured=0.4)}


@pytest.mark.parametrize("kind", EDIT_KINDS)
@pytest.mark.parametrize("side", [64, 128])
def test_nothing_changes_outside_the_mask(kind, side):
    """Catches a mask without the soft edges, or of the wrong object: a correct edit would be judged wrong."""
    for index in range(15):
        edit = make_edit(1, "train", index, WORLDS["continuous" if index % 2 else "snapped"], kind)
        mask = may_change(edit, side)
        source, target = rasterize(edit.source, side), rasterize(edit.target, side)
        assert mask.shape == (side, side) and mask.dtype == bool
        assert np.array_equal(source[~mask], target[~mask])
        assert (source != target).any() == mask.any() == (kind != "keep")
        if kind not in ("keep", "background"):
            assert mask.mean() < 0.4


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_changes_what_it_is_named_for(kind):
    """Catches a recolouring that also moves, a removal of another object, an addition that overlaps."""
    for index in range(40):
        edit = make_edit(2, "held_back", index, WORLDS["continuous" if index % 2 else "snapped"], kind)
        before, after = set(edit.source.objects), set(edit.target.objects)
        gone, new = before - after, after - before
        numbers = {"recolour": (1, 1), "replace": (1, 1), "remove": (1, 0), "add": (0, 1)}
        assert (len(gone), len(new)) == numbers.get(kind, (0, 0))
        assert (edit.source.background != edit.target.background) == (kind == "background")
        if kind in ("recolour", "replace"):
            (old,), (new,) = gone, new
            same = {"recolour": "shape", "replace": "colour"}[kind]
            assert (old.x, old.y, old.radius, getattr(old, same)) == (new.x, new.y, new.radius, getattr(new, same))
        assert compare(detection_of(edit.target), spec_after(edit)).strict
        assert compare(detection_of(edit.source), spec_after(edit)).strict == (kind == "keep")


@pytest.mark.parametrize("kind", ["replace", "add"])
def test_new_objects_are_inside_and_apart(kind):
    """Catches a wider shape in place of a narrow one that now touches its neighbour or the frame."""
    for index in range(200):
        boxes = [obj.box for obj in make_edit(2, "train", index, WORLDS["continuous"], kind).target.objects]
        assert all(min(box) >= 4 and max(box) <= 124 for box in boxes)
        for (a, b, c, d), (e, f, g, h) in combinations(boxes, 2):
            assert max(a - g, e - c, b - h, f - d) >= 10


def test_instructions_name_one_object_and_the_change():
    """Catches 'the circle' among two circles, and an instruction without its new colour or shape."""
    for index in range(240):
        edit = make_edit(5, "train", index)
        shapes = [obj.shape for obj in edit.source.objects]
        for text in instructions(edit):
            if edit.index is not None:
                old = edit.source.objects[edit.index]
                assert f"the {old.colour} {old.shape}" in text or (
                    f"the {old.shape}" in text and shapes.count(old.shape) == 1
                )
            if edit.kind in ("recolour", "replace"):
                new = edit.target.objects[edit.index]
                assert (new.colour if edit.kind == "recolour" else f" {new.shape}") in text
            if edit.kind == "add":
                new = edit.target.objects[-1]
                assert f"{new.colour} {new.shape}" in text
            if edit.kind == "background":
                assert edit.target.background in text
        assert instruction(edit, index) in instructions(edit)


def test_the_plain_instructions_do_not_change():
    """Catches a lost wording that must work, and the published model's for keeping an image."""
    said = {kind: set() for kind in EDIT_KINDS}
    for kind in EDIT_KINDS:
        for index in range(30):
            edit = make_edit(6, "train", index, kind=kind)
            said[kind] |= {re.sub(rf"\b({'|'.join(PALETTE)})\b", "C", text) for text in instructions(edit)}
    said = {text for texts in said.values() for text in texts}
    shape = re.compile(rf"\b({'|'.join(SHAPES)})\b")
    said = {shape.sub("S", text) for text in said}
    assert said >= {
        "change the C S to C",
        "change the S to C",
        "make the S C",
        "remove the S",
        "make the background C",
        "change the background to C",
        "replace the S with a S",
        "Keep the image unchanged.",
        "add a C S",
    }
    assert {instruction(make_edit(0, "train", k, kind="keep")) for k in range(5)} == {"Keep the image unchanged."}
