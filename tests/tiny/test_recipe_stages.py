"""What a stage of the recipe needs before it, how long it trains, and the gate after it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from blip3o_core.errors import Blip3oError
from blip3o_core.tiny.recipe import (
    autoencoder,
    connector,
    editing,
    image_tokenizer,
    language,
    references,
    renderer,
    stages,
    starts,
)
from blip3o_core.tiny.recipe.assemble import save_part
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
    monkeypatch.setattr(language, "edit_gate", lambda *_, **__: {})
    assert stages.STAGES[stage].key in stages.STAGES[stage].gate(Recipe(tmp_path, print))


def test_a_share_of_the_recipe_has_a_share_of_the_steps(tmp_path):
    """Catches a short run whose warm-up or average outlasts it: nothing would have been learnt."""
    recipe = Recipe(tmp_path, print, share=0.01)
    settings = recipe.settings(language.SETTINGS)
    assert settings.steps == 22 and settings.warmup <= 22 and settings.ema_decay <= 0.8
    assert Recipe(tmp_path, print).settings(language.SETTINGS) == language.SETTINGS


def test_a_stage_is_trained_for_longer(tmp_path, monkeypatch):
    """Catches steps that reach one of the three trainers alone, and numbers that do not say what they are of."""
    given = []
    monkeypatch.setattr("blip3o_core.tiny.recipe.recipe.train_jointly", lambda config, *_: given.append(config))
    monkeypatch.setattr(stages, "train_by_rewards", lambda settings, *_: given.append(settings))
    monkeypatch.setattr(Recipe, "last_checkpoint", lambda *_: tmp_path)
    monkeypatch.setattr(Recipe, "start_checkpoint", lambda *_: None)
    monkeypatch.setattr(stages, "_with_references", lambda *_: tmp_path)
    recipe = Recipe(tmp_path, print, longer=30)
    assert recipe.settings(language.SETTINGS) == language.SETTINGS.replace(steps=2230)
    for name in ("joint", "grpo"):
        stages.STAGES[name].run(recipe)
    assert given[0].steps == 300 + 30 and given[1].updates == 140 + 30
    # A trainer refuses to continue with another warm-up.
    stages.STAGES["joint"].run(replace(recipe, share=0.01))
    assert (given[2].steps, given[2].warmup) == (33, 3)
    assert replace(recipe, share=0.01).settings(language.SETTINGS).warmup == 22
    weak = stages.Stage(lambda recipe: None, lambda recipe: {"mean": 0.2}, "mean", 0.9)
    monkeypatch.setitem(stages.STAGES, "weak", weak)
    with pytest.raises(Blip3oError, match="--longer"):
        stages.run("weak", recipe)
    assert json.loads(recipe.log.read_text())["longer"] == 30


def test_a_state_that_was_begun_from_something_else_is_refused(tmp_path):
    """Catches a training that goes on with weights from before an earlier one was made anew."""
    folder, behind = tmp_path / "words", tmp_path / "again"
    starts.claim(folder, "one")
    starts.claim(folder, "other")  # nothing was trained yet
    (folder / "state.pt").touch()
    starts.claim(folder, "other")
    behind.mkdir()
    with pytest.raises(Blip3oError, match=f"Remove {folder} and {behind}, then"):
        starts.claim(folder, "one", [behind, tmp_path / "absent"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, part, kept, changed",
    [
        (
            "decoder",
            "autoencoder",
            "model.sana_vae.decoder.conv_out.conv.weight",
            "model.sana_vae.encoder.conv_in.conv.weight",
        ),
        (
            "renderer",
            "autoencoder",
            "model.sana_vae.decoder.conv_out.conv.weight",
            "model.sana_vae.encoder.conv_in.conv.weight",
        ),
        ("connector", "language", "model.diffusion_connector.0.weight", "model.norm.weight"),
    ],
    ids=["decoder", "renderer", "connector"],
)
def test_a_stage_does_not_go_on_behind_a_part_that_was_trained_anew(stage, part, kept, changed, tmp_path, monkeypatch):
    """Catches a renderer of old latents, a decoder of an old encoder, and a connector of an old language model."""
    ran = []
    monkeypatch.setattr(autoencoder, "refine_decoder", lambda *_: ran.append(stage))
    monkeypatch.setattr(Recipe, "train", lambda *_: ran.append(stage))
    for module in (renderer, connector):
        monkeypatch.setattr(module, "tensors", lambda trained: {})
    recipe = Recipe(tmp_path, print)
    before = load_file(recipe.start_checkpoint().folder / "model.safetensors")
    stages.STAGES[stage].run(recipe)
    (tmp_path / stage / "state.pt").touch()
    save_part(tmp_path, part, {kept: before[kept] + 1}, {"scaling_factor": "1"})
    stages.STAGES[stage].run(recipe)
    assert ran == [stage] * 2
    save_part(tmp_path, part, {changed: before[changed] + 1}, {"scaling_factor": "1"})
    with pytest.raises(Blip3oError, match=f"{stage} was begun from other weights.*Remove {tmp_path / stage}, then"):
        stages.STAGES[stage].run(recipe)
    assert ran == [stage] * 2


def test_the_decoder_is_refined_before_references(tmp_path, monkeypatch):
    """Catches a decoder that is trained for nothing, because the stages from `references` on keep the one before it."""
    trained = []
    monkeypatch.setattr(references, "train", lambda checkpoint, folder, *_: trained.append(folder.name))
    monkeypatch.setattr(Recipe, "start_checkpoint", lambda self: None)
    for name in ("_with_references", "open_checkpoint", "save_part"):
        monkeypatch.setattr(stages, name, lambda *_: None)
    monkeypatch.setattr(stages, "encoder_digest", lambda *_: "the same")
    recipe = Recipe(tmp_path, print)
    for stage in ("autoencoder", "decoder"):
        monkeypatch.setitem(stages.STAGES, stage, stages.Stage(lambda recipe: None, lambda recipe: {}))
    stages.STAGES["references"].run(recipe)  # parts that were copied into the folder are as they shall be
    (tmp_path / "autoencoder").mkdir()
    for finished in ([], ["autoencoder"], ["decoder", "autoencoder"]):
        for stage in finished:
            stages.run(stage, recipe)
        with pytest.raises(Blip3oError, match="Run stage decoder first"):
            stages.STAGES["references"].run(recipe)
    assert trained == ["references"]
    stages.run("decoder", recipe)
    stages.STAGES["references"].run(recipe)
    assert trained == ["references"] * 2


def test_gates_ask_each_category_and_kind_as_often(tmp_path, monkeypatch):
    """Catches a gate that asks the first categories more often, and one that leaves edits out."""
    counts, kinds = [], []

    def images(pipeline, settings, source):
        counts.append(settings.count)
        return SimpleNamespace(mean=0.9, strict={"size": 0.8})

    def edits(pipeline, settings, mode):
        kinds.append(settings.count / len(settings.kinds))
        return SimpleNamespace(right={"mean": 0.7}, outside={"mean": 2.0}, surfaces=None)

    monkeypatch.setattr(stages, "evaluate", images)
    monkeypatch.setattr(editing, "evaluate", edits)
    for module in (stages, editing):
        monkeypatch.setattr(module, "Pipeline", lambda *_: None)
    monkeypatch.setattr(stages, "open_checkpoint", lambda *_: SimpleNamespace(trained_side=128))
    monkeypatch.setattr(Recipe, "last_checkpoint", lambda *_: None)
    recipe = Recipe(tmp_path, print)
    numbers = stages.STAGES["joint"].gate(recipe)
    assert counts == [40 * 9] * 2 and (numbers["weakest"], numbers["mean"]) == (0.8, 0.9)
    assert numbers["edits mean"] == 0.7
    monkeypatch.setattr(stages, "_with_references", lambda *_: None)
    monkeypatch.setattr(Recipe, "start_checkpoint", lambda *_: None)
    stages.STAGES["references"].gate(recipe)
    assert kinds == [25, 50]
