"""The ten-minute recipe, and the record of it that the docs show."""

import json
import math

import pytest

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.errors import Blip3oError
from blip3o_core.tiny.recipe import assemble, autoencoder, image_tokenizer, language, quick
from tests.support.paths import TOP

DOCS = TOP / "docs"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint of starting values."""
    out = tmp_path_factory.mktemp("recipe")
    return open_checkpoint(assemble.assemble(out, out / "start"))


@pytest.mark.long
def test_a_quick_run_goes_from_nothing_to_a_record(tmp_path, monkeypatch):
    """Catches a stage that the quick schedule lost, and a run that takes over parts of another one."""
    for stage in quick.SHORT:
        monkeypatch.setitem(quick.SHORT, stage, (250, 4, 1200))
    monkeypatch.setitem(quick.JOINT, "batch", 4)
    monkeypatch.setattr(autoencoder, "RESCALE_IMAGES", 16)
    recipe = quick.Quick(tmp_path, lambda entry: None, share=0.004)
    record = quick.run(recipe, count=1)
    assert json.loads((tmp_path / quick.CURVE).read_text()) == json.loads(json.dumps(record))
    parts = [*quick.SHORT, "joint"]
    assert list(record["cpu_minutes"]) == [*parts, "accuracy"] and list(record["stages"]) == parts
    assert all(curve["step"] == [1] and math.isfinite(curve["loss"][0]) for curve in record["stages"].values())
    assert set(record["accuracy"]) == {"single_object", "colors"}
    assert open_checkpoint(recipe.last_checkpoint("joint")).load_language().model.embed_tokens.weight.isfinite().all()
    with pytest.raises(Blip3oError, match="is not empty.*give another one"):
        quick.run(recipe)


def test_the_recorded_quick_run_is_of_this_recipe(start, tmp_path):
    """Catches a record of other settings, of a run that failed, or of other starting values, worlds or seeds."""
    record = json.loads((DOCS / "tiny_quick.json").read_text())
    recipe = quick.Quick(tmp_path, lambda entry: None)
    assert record["settings"] == json.loads(json.dumps(quick.settings(recipe)))
    assert list(record["stages"]) == [*quick.SHORT, "joint"]
    assert min(record["accuracy"].values()) > 0.5
    for stage, curve in record["stages"].items():
        last = record["settings"]["stages"][stage]["steps"]
        assert curve["step"][1:] == sorted({*range(50, last, 50), last}), stage
        assert len(curve["loss"]) == len(curve["step"]) and all(map(math.isfinite, curve["loss"]))
        assert curve["loss"][-1] < 0.7 * curve["loss"][0], stage
    for module, given in ((image_tokenizer, ()), (language, (start,))):
        stage, entries = module.__name__.rpartition(".")[2], []
        first = recipe.stage_settings(stage).replace(steps=1)
        module.train(*given, tmp_path / stage, first, entries.append, quick.WORLD)
        assert entries[0]["loss"] == pytest.approx(record["stages"][stage]["loss"][0], rel=0.01)


def test_the_docs_show_the_recorded_quick_run():
    """Catches a new record beside the old table."""
    record, text = json.loads((DOCS / "tiny_quick.json").read_text()), (DOCS / "tiny.md").read_text()
    for stage, curve in record["stages"].items():
        steps, loss, minutes = curve["step"][-1], curve["loss"], record["cpu_minutes"][stage]
        assert f"| `{stage}` | {steps} | {minutes:.1f} | {loss[0]:.3f} | {loss[-1]:.3f} |" in text
    shares = " | ".join(f"{100 * share:.0f}" for share in record["accuracy"].values())
    assert f"| {shares} |" in text
