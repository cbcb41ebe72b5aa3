"""What a stage of the recipe needs before it, how long it trains, and the gate after it."""

import json
from dataclasses import replace

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.tiny.recipe import autoencoder, image_tokenizer, language, renderer, stages
from blip3o_core.tiny.recipe.recipe import Recipe
from blip3o_core.tiny.scenes.world import World, make_scene

WORLD = World(low_contrast=False)


def test_a_missed_gate_stops_the_recipe(tmp_path, monkeypatch):
    """Catches stages that go on from a part that failed."""
    weak = stages.Stage(lambda recipe: None, lambda recipe: {"mean": 0.2}, "mean", 0.9)
    monkeypatch.setitem(stages.STAGES, "weak", weak)
    recipe = Recipe(tmp_path, print)
    with pytest.raises(Blip3oError, match="weak reached mean 0.200, but its gate needs 0.90"):
        stages.run("weak", recipe)
    assert json.loads((tmp_path / "gates.jsonl").read_text())["mean"] == 0.2
    with pytest.raises(Blip3oError, match="'week' is unknown"):
        stages.run("week", recipe)


def test_only_an_autoencoder_that_is_refined_later_has_a_lower_gate(tmp_path, monkeypatch):
    """Catches a first edition that goes on with an autoencoder that loses one shape in ten."""
    rough = replace(stages.STAGES["autoencoder"], run=lambda recipe: None, gate=lambda recipe: {"mean": 0.93})
    monkeypatch.setitem(stages.STAGES, "autoencoder", rough)
    assert stages.run("autoencoder", Recipe(tmp_path, print, edition=2))["mean"] == 0.93
    with pytest.raises(Blip3oError, match="its gate needs 0.97"):
        stages.run("autoencoder", Recipe(tmp_path, print))


def test_stages_beside_each_other_have_starts_of_their_own(tmp_path, monkeypatch):
    """Catches a gate that loads a checkpoint while another process writes it anew."""
    folders = []
    note = stages.Stage(lambda recipe: folders.append(recipe.start_checkpoint().folder), lambda recipe: {})
    for name in ("one", "two"):
        monkeypatch.setitem(stages.STAGES, name, note)
        stages.run(name, Recipe(tmp_path, print))
    assert folders[0] != folders[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "image_tokenizer", "language", "renderer"])
def test_a_gate_runs_as_its_stage_calls_it(stage, tmp_path, monkeypatch):
    """Catches a gate that writes its checkpoint anew while it reads it: the numbers of a long training are lost."""
    for module in (autoencoder, image_tokenizer, language, renderer):
        monkeypatch.setattr(module, "held_back_scenes", lambda *_: {"size": [make_scene(0, "train", 0, WORLD, "size")]})
    assert stages.STAGES[stage].key in stages.STAGES[stage].gate(Recipe(tmp_path, print))


def test_a_share_of_the_recipe_has_a_share_of_the_steps(tmp_path):
    """Catches a short run whose warm-up or average outlasts it: nothing would have been learnt."""
    recipe = Recipe(tmp_path, print, share=0.01)
    settings = recipe.settings(language.SETTINGS)
    assert settings.steps == 22 and settings.warmup <= 22 and settings.ema_decay <= 0.8
    assert Recipe(tmp_path, print).settings(language.SETTINGS) == language.SETTINGS
