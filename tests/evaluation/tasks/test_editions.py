"""`blip3o evaluate tiny` and `tiny-edits`: which edition of the world they ask about, in which shapes of image."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.plan import batches, rows_of
from blip3o_core.evaluation.tasks.find import open_task
from blip3o_core.images.png import read_settings
from blip3o_core.tiny.judge.judge import judge_edit
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.world import CATEGORIES
from tests.support.evaluation import StandInTask, words

FIRST, SECOND = SimpleNamespace(trained_side=64), SimpleNamespace(trained_side=128)


def test_captions_are_of_the_checkpoints_edition():
    """Catches prompts of the first edition's world for a model of the second, and square images of wide scenes."""
    first, second = (open_task("tiny", None, {}, checkpoint) for checkpoint in (FIRST, SECOND))
    assert first == open_task("tiny") and {item.category for item in first.items} == set(CATEGORIES)
    assert (first.version, second.version) == ("1", "2") and "text" in second.weights
    assert {item.size for item in second.items} == {None, (192, 96), (96, 192), (144, 96)}
    assert open_task("tiny", None, {"edition": "1"}, SECOND).items == first.items
    with pytest.raises(Blip3oError, match="edition is '3'. Give one of 1, 2"):
        open_task("tiny", None, {"edition": "3"})


def test_edits_are_of_the_checkpoints_edition():
    """Catches references in half of their size, one reference of two, and textures that are not measured."""
    task = open_task("tiny-edits", None, {"count": "21"}, SECOND)
    assert open_task("tiny-edits", None, {"count": "21"}, FIRST).judge.measures.keys() == {
        "right",
        "objects",
        "outside",
    }
    (judge,), surfaces = task.scorers(), []
    for item in task.items:
        edit = item.meta["edit"]
        seen = [np.asarray(Image.open(io.BytesIO(reference.read()))) for reference in item.references]
        assert len(seen) == 1 + (edit.kind == "compose")
        assert [image.shape for image in seen] == [rasterize(scene, 128).shape for scene in edit.sources]
        assert item.mask().shape == seen[0].shape[:2]
        verdict = judge_edit(rasterize(edit.target, 128), edit)
        assert judge.attributes.keys() == judge.measures.keys() and verdict.strict
        surfaces.append(verdict.surfaces)
    assert 0 in surfaces and None in surfaces


def test_images_of_one_size_are_computed_together():
    """Catches a batch of images with several sizes, which would all get the first one's."""
    items = [Item(f"{k}", "a", size=(192, 96) if k % 2 else None) for k in range(7)]
    planned = batches(rows_of(StandInTask(items), items, 1), 2, lambda item: True)
    assert [[row.item.id for row in batch] for batch in planned] == [["0", "2"], ["1", "3"], ["4", "6"], ["5"]]


def test_images_have_the_shape_that_their_captions_ask_for(tiny, tmp_path):
    """Catches a wide scene in a square image, and a stored command that makes another one."""
    task = open_task("tiny", None, {"edition": "2", "count": "80"})
    wide = next(item for item in task.items if item.size == (192, 96))
    run = words(tiny, tmp_path, "--option=edition=2", f"--limit={int(wide.id) + 1}")
    assert main(run) == 0
    with Image.open(tmp_path / "images" / f"{wide.id}-0.png") as image:
        assert image.size == (192, 96)
    stored = read_settings(tmp_path / "images" / f"{wide.id}-0.png")
    assert stored["size"] == "192x96" and "--size=192x96" in stored["command"]
    assert json.loads((tmp_path / "results.json").read_text())["run"]["task"]["version"] == "2"
