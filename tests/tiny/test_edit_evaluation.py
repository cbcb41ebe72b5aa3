"""The table of edits: what is asked, what is judged, and which ways are gone."""

import json

import numpy as np
import pytest
import torch

from blip3o_core.__main__ import main
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.checkpoint.checkpoint import open_checkpoint
from blip3o_core.diffusion.reference_mode import ReferenceMode
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny import edit_evaluation as edits
from blip3o_core.tiny.judge.judge import judge_edit
from blip3o_core.tiny.scenes.edits import EDIT_KINDS
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.training.edit_checkpoint import add_references

FEW = edits.Settings(count=len(EDIT_KINDS), steps=2, batch=4)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.load(BUNDLED, dtype=torch.float32)


def test_every_kind_is_asked_as_often_and_nothing_was_trained_on():
    """A table whose mean is that of the easy kinds, or of edits that the training has seen."""
    pairs = edits.make_edits(edits.Settings(count=60))
    assert [edit.kind for edit, _ in pairs[:6]] == list(EDIT_KINDS)
    assert len({(text, edit.source) for edit, text in pairs}) == 60
    assert edits.make_edits(edits.Settings(count=12)) == pairs[:12]


def test_true_targets_are_right_and_sources_are_not():
    """A judge that is pleased with the unchanged picture, or that no picture can please."""
    pairs = edits.make_edits(edits.Settings(count=60))
    targets = tuple(judge_edit(rasterize(edit.target, 64), edit) for edit, _ in pairs)
    sources = tuple(judge_edit(rasterize(edit.source, 64), edit) for edit, _ in pairs)
    blank = np.zeros((60, 64, 64, 3))
    known = tuple(edit for edit, _ in pairs)
    assert edits.Result("true", FEW, known, targets, blank).right == dict.fromkeys((*EDIT_KINDS, "mean"), 1.0)
    unchanged = edits.Result("source", FEW, known, sources, blank)
    assert unchanged.right["keep"] == 1.0 and unchanged.right["mean"] < 0.2 and unchanged.outside["remove"] == 0


def test_the_ways_are_those_of_the_checkpoint(pipeline, tmp_path):
    """A way that a checkpoint lacks, measured all the same: the same numbers in two columns."""
    assert edits.supported_modes(ReferenceMode()) == ["tokens"]
    assert edits.supported_modes(ReferenceMode(cross=True, noise=True)) == list(edits.TITLES)
    plain = tmp_path / "cross"
    add_references(open_checkpoint(BUNDLED), plain, cross=True, noise=False)
    with pytest.raises(Blip3oError, match="no noise path"):
        edits.evaluate(Pipeline.load(plain), FEW, "both")


def test_batches_do_not_change_a_picture(pipeline):
    """Rows that get their neighbour's reference."""
    together = edits.evaluate(pipeline, FEW, "tokens")
    alone = edits.evaluate(pipeline, edits.Settings(count=len(EDIT_KINDS), steps=2, batch=1), "tokens")
    assert np.abs(together.images - alone.images).max() < 1e-3


def test_the_command_prints_a_table_and_writes_numbers(tmp_path, capsys):
    """Numbers in a file that are not those of the table."""
    path = tmp_path / "edits.json"
    assert main(["evaluate", "tiny-edits", "--count", "6", "--steps", "2", "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert found["edits"] == 6 and "reference as" in printed
    assert f"{100 * found['reference_modes']['tokens']['right']['mean']:.1f}" in printed
    assert main(["evaluate", "tiny-edits", "--count", "2"]) == 2
