"""The phases of the language model: what each learns, from what, and for how long."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.errors import Blip3oError
from blip3o_core.tiny import TEXT
from blip3o_core.tiny.recipe import language, language_phases, stages
from blip3o_core.tiny.recipe.assemble import save_part
from blip3o_core.tiny.recipe.recipe import Recipe
from blip3o_core.tiny.recipe.starts import language_digest
from blip3o_core.weights.names import CONNECTOR


def test_the_language_model_is_trained_in_phases(tmp_path, monkeypatch):
    """Catches a phase that starts from nothing, words never practised, edits left out, and every phase made longer."""
    ran = []

    def train(checkpoint, folder, settings, report, world, additions):
        assert additions.alignment is None
        edits = additions.edits
        model = checkpoint.load_language(torch.float32)
        share = dict(world.weights)[TEXT] / sum(weight for _, weight in world.weights)
        ran.append(
            (
                folder.name,
                settings.steps,
                round(share, 2),
                edits and edits.world.oblong,
                world.oblong,
                edits.weights["add"] if edits else None,
                model.model.norm.weight[0].item(),
            )  # fmt: skip
        )
        model.model.norm.weight[0] += 1
        return model

    monkeypatch.setattr(language, "train", train)
    language_phases.train(Recipe(tmp_path, print, longer=100))
    phases = [
        ("all", 4400, 0.35, 0.25, 0.25, 1.3),
        ("words", 300, 0.8, None, 0.25, None),
        ("again", 3000, 0.3, 0.25, 0.25, 1.3),
        ("weak", 1500, 0.2, 0.35, 0.45, 2.5),
    ]
    assert [phase[:-1] for phase in ran] == phases
    assert [phase[-1] - ran[0][-1] for phase in ran] == [0, 1, 2, 3]


def test_states_keep_what_is_written_before_edits_come_back(tmp_path, monkeypatch):
    """Catches phases of `align` that lose the connector between them, and letters that nothing asks for."""
    ran = []

    def train(checkpoint, folder, settings, report, world, additions):
        model = checkpoint.load_language(torch.float32)
        bias, letters = model.connector[0].bias, additions.alignment.letters > 0
        own = additions.reinforcement is not None
        ran.append((folder.name, settings.steps, bool(additions.edits), world.textured, letters, own, bias[0].item()))
        bias.data[0] += 1
        return model

    monkeypatch.setattr(language, "train", train)
    model = language_phases.align(Recipe(tmp_path, print, stage="align", longer=100))
    assert [phase[:-1] for phase in ran] == [
        ("keep", 300, False, 1.0, True, False),
        ("all", 1100, True, 0.8, True, False),
        ("own", 500, True, 0.6, True, True),
    ]
    first = ran[0][-1]
    assert [ran[1][-1] - first, model.connector[0].bias[0].item() - first] == pytest.approx([1, 3])


@pytest.mark.slow
def test_a_carried_over_model_is_trained_on_and_phases_know_their_start(tmp_path, monkeypatch):
    """Catches a phase that goes on from before its start was trained anew, and one that takes up another model's."""
    small, reported = {"batch": 6, "warmup": 0}, []
    monkeypatch.setattr(Recipe, "settings", lambda self, full: full.replace(steps=1 + self.longer, **small))

    def train(other, longer: int = 0):
        return language_phases.train(Recipe(tmp_path, reported.append, start=other, longer=longer))

    first = train(BUNDLED)
    assert [(entry["stage"], entry["step"]) for entry in reported] == [
        ("all", 1),
        ("words", 1),
        ("again", 1),
        ("weak", 1),
    ]
    assert reported[0]["loss"] < 6  # of random codes: 9
    longer = train(BUNDLED, 1)
    assert [(entry["stage"], entry["step"]) for entry in reported[4:]] == [("weak", 2)]
    assert not torch.equal(first.model.norm.weight, longer.model.norm.weight)

    place = tmp_path / "language" / "carried-over"
    shutil.rmtree(place / "all")
    small["lr"] = 2e-3
    with pytest.raises(Blip3oError, match="Remove .*words and .*again and .*weak, then"):
        train(BUNDLED)
    altered = shutil.copytree(BUNDLED, tmp_path / "other")
    tensors = load_file(altered / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, altered / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Blip3oError, match="all was begun from other weights"):
        train(altered)


@pytest.mark.slow
def test_aligned_states_tell_the_connector_what_sana_was_taught(tmp_path, monkeypatch):
    """Catches a connector that does not learn along, and `joint` behind states of another language model."""
    monkeypatch.setattr(Recipe, "settings", lambda self, full: full.replace(steps=4, batch=8, warmup=0, log_every=1))
    monkeypatch.setattr(language_phases, "_ALIGN", language_phases._ALIGN[:2])  # `own` has no error of its own
    reported: list[dict] = []
    recipe = Recipe(tmp_path, reported.append, stage="align")
    stages.STAGES["align"].run(recipe)
    assert reported[-1]["loss"] < reported[0]["loss"] - 0.5  # the error is 5.5 in the beginning
    assert {name for name in load_file(tmp_path / "align.safetensors") if name.startswith(CONNECTOR)}
    assert not (tmp_path / "language.safetensors").exists()

    own = language_digest(recipe.start_checkpoint(aligned=False))
    aligned = recipe.start_checkpoint()
    assert language_digest(aligned) != own
    save_part(tmp_path, "language", language.tensors(aligned.load_language(torch.float32)))
    with pytest.raises(Blip3oError, match="keep was begun from other weights"):
        stages.STAGES["references"].run(recipe)
