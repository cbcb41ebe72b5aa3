"""The evaluation of edits: what is asked for, what is judged, and in which reference modes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.diffusion.reference_mode import ReferenceMode
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny import edit_evaluation as edits
from blip3o_core.tiny.judge.judge import judge_edit
from blip3o_core.tiny.scenes.edits import EDIT_KINDS
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.world import split_of
from blip3o_core.training.edit_checkpoint import add_references

FEW = edits.Settings(count=len(EDIT_KINDS), steps=2, batch=4)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.load(BUNDLED, dtype=torch.float32)


@pytest.fixture(scope="module")
def pairs():
    return edits.make_edits(edits.Settings(count=60))


def test_every_kind_is_asked_as_often_and_nothing_was_trained_on(pairs):
    """Catches a mean over mostly easy kinds, and edits that the training has seen."""
    assert {split_of(scene) for edit, _ in pairs for scene in (edit.source, edit.target)} == {"held_back"}
    assert [edit.kind for edit, _ in pairs[:6]] == list(EDIT_KINDS)
    assert len({(text, edit.source) for edit, text in pairs}) == 60
    assert edits.make_edits(edits.Settings(count=12)) == pairs[:12]


def test_true_targets_are_right_and_sources_are_not(pairs):
    """Catches a judge that accepts the unchanged image, and one that accepts no image."""
    targets = tuple(judge_edit(rasterize(edit.target, 64), edit) for edit, _ in pairs)
    sources = tuple(judge_edit(rasterize(edit.source, 64), edit) for edit, _ in pairs)
    blank = np.zeros((60, 64, 64, 3))
    asked = tuple(edit for edit, _ in pairs)
    assert edits.Result("true", FEW, asked, targets, blank).right == dict.fromkeys((*EDIT_KINDS, "mean"), 1.0)
    unchanged = edits.Result("source", FEW, asked, sources, blank)
    assert unchanged.right["keep"] == 1.0 and unchanged.right["mean"] < 0.2 and unchanged.outside["remove"] == 0


def test_a_reference_mode_that_the_checkpoint_lacks(tmp_path):
    """Catches a mode that is measured although the checkpoint lacks it: two columns would hold the same numbers."""
    add_references(open_checkpoint(BUNDLED), tmp_path / "cross", cross=True, noise=False)
    checkpoint = open_checkpoint(tmp_path / "cross")
    pipeline = SimpleNamespace(checkpoint=checkpoint, reference_mode=checkpoint.reference_mode)
    with pytest.raises(Blip3oError, match="noisy latent, but .* does not support that"):
        edits.evaluate(pipeline, FEW, "both")


@pytest.mark.slow
def test_batches_do_not_change_an_image(pipeline, pairs):
    """Catches rows that get their neighbour's reference or seed."""
    seeds, mode = [3, 4, 5], ReferenceMode(cross=True, noise=True)
    with torch.no_grad():
        together = edits.run_edits(pipeline, pairs[:3], seeds, FEW, mode)
        alone = edits.run_edits(pipeline, pairs[1:2], seeds[1:2], FEW, mode)
    assert (together[1] - alone[0]).abs().max() < 1e-3
