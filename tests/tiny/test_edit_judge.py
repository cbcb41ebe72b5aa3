"""The judge of edits: what was asked for is done, and nothing else changed."""

from dataclasses import replace

import numpy as np
import pytest

from blip3o_core import Blip3oError
from blip3o_core.tiny import EDIT_KINDS, Scene, World, judge_edit, make_edit, may_change, rasterize
from blip3o_core.tiny.judge.degradation import degrade
from blip3o_core.tiny.judge.report import WRONG_EDITS, degradations
from blip3o_core.tiny.scenes.world import SceneObject

WORLDS = {"snapped": World(coloured=0.4), "continuous": World(snapped=False, coloured=0.4)}
LEFT = SceneObject("circle", "red", 32, 64, 20)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_done_is_right_and_one_not_done_is_not(kind):
    """Catches a judge that a copy of the source satisfies, or that demands more than the target."""
    level = degradations(64, World())["32 dB"]
    for index in range(12):
        edit = make_edit(7, "train", index, WORLDS["snapped" if index % 2 else "continuous"], kind)
        target = rasterize(edit.target)
        verdict = judge_edit(target, edit)
        assert verdict.strict and verdict.credit == 1 and verdict.outside == 0
        soft = judge_edit(degrade(target, level, np.random.default_rng(index)), edit)
        assert soft.strict and 2 < soft.outside < 6
        assert judge_edit(rasterize(edit.source), edit).strict == (kind == "keep")


@pytest.mark.parametrize("mistake", WRONG_EDITS)
def test_an_edit_that_changes_more_is_caught(mistake):
    """Catches a judge that looks at the asked change alone."""
    done = 0
    for index in range(60):
        edit = make_edit(8, "train", index)
        wrong = WRONG_EDITS[mistake](edit)
        if wrong is not None:
            done += 1
            verdict = judge_edit(rasterize(wrong), edit)
            assert not verdict.strict and verdict.credit < 1 and verdict.reasons
    assert done > 20


def test_pixels_that_must_stay_are_measured():
    """Catches a mean over the whole image, one that counts the edited object, and a limit that is ignored."""
    edit = make_edit(0, "train", 3, kind="recolour")
    brighter = rasterize(edit.target).astype(int)
    brighter[~may_change(edit)] += 12
    brighter = np.clip(brighter, 0, 255).astype(np.uint8)
    verdict = judge_edit(brighter, edit)
    assert verdict.outside == pytest.approx(12, abs=1) and not verdict.strict and verdict.layout
    assert "changed by 12" in verdict.reasons[-1] and 0.75 < verdict.credit < 1
    assert judge_edit(brighter, edit, limit=14).strict
    changed = rasterize(edit.target)
    changed[may_change(edit)] = 255
    assert judge_edit(changed, edit).outside == 0 and not judge_edit(changed, edit).strict


def test_an_added_object_may_be_anywhere_that_was_asked():
    """Catches an addition judged by the target's place, which the instruction does not tell."""
    source = Scene("edit", (LEFT,))
    new = SceneObject("square", "green", 96, 32, 20)
    edit = make_edit(0, "train", 0, kind="add")
    edit = replace(edit, source=source, target=replace(source, objects=(LEFT, new)), relation=None, reference=None)
    elsewhere = rasterize(replace(source, objects=(LEFT, replace(new, y=96.0))))
    assert judge_edit(elsewhere, edit).strict
    above = replace(edit, relation="above", reference=0)
    verdict = judge_edit(elsewhere, above)
    assert not verdict.strict and "the green square is not above the red circle" in verdict.reasons
    both_moved = rasterize(replace(source, objects=(replace(LEFT, y=44.0), new)))
    assert not judge_edit(both_moved, edit).strict


def test_an_edited_image_must_be_square():
    """Catches a crash deep in numpy."""
    with pytest.raises(Blip3oError, match="square"):
        judge_edit(np.zeros((64, 96, 3), np.uint8), make_edit(0, "train", 0))
