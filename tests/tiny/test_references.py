"""The recipe's stage `references`: what it trains, and that `joint` starts from it."""

import pytest
import torch
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.diffusion.reference_conditioning import append_reference_tokens
from blip3o_core.models.connector import connect
from blip3o_core.seeds import seeded
from blip3o_core.tiny.recipe import loop, references, renderer, stages
from blip3o_core.tiny.recipe.model_config import SECOND_EDITION
from blip3o_core.tiny.recipe.recipe import Recipe
from blip3o_core.tiny.recipe.worlds import whole
from blip3o_core.weights.names import REFERENCE_CONNECTOR, SANA
from tests.tiny.test_recipe_device import Looked, OneDevice


def test_both_ways_of_a_reference_are_trained_and_joint_starts_from_them(tmp_path, monkeypatch):
    """Catches a connector that nothing trains, steps that all have both ways, and what `joint` loses."""
    settings = references.SETTINGS.replace(steps=10, batch=4, seed=5, warmup=0, log_every=1, ema_decay=None)
    monkeypatch.setattr(Recipe, "settings", lambda self, full: settings)
    monkeypatch.setattr(renderer, "IMAGES_PER_STEP", 3)
    monkeypatch.setattr(references, "_EDITS", 0.9)
    monkeypatch.setattr(references, "_ALONE", 0.4)
    monkeypatch.setattr(references, "append_reference_tokens", counted := Counted(references.append_reference_tokens))
    monkeypatch.setattr(references, "predict_side_by_side", beside := Counted(references.predict_side_by_side))
    joined = []
    monkeypatch.setattr(Recipe, "train_jointly", lambda self, stage, *given, **_: joined.append(given))
    reported: list[dict] = []
    recipe = Recipe(tmp_path, reported.append, stage="references")
    before = load_file(recipe.start_checkpoint().folder / "model.safetensors")
    stages.STAGES["references"].run(recipe)
    assert len(reported) == 10 and 0 < counted.calls < 10 and 0 < beside.calls < 10
    trained = load_file(tmp_path / "references.safetensors")
    first = SANA + "transformer_blocks.0.attn1.to_q.weight"
    assert not torch.equal(trained[first], before[first]) and trained[REFERENCE_CONNECTOR + "0.weight"].any()

    stages.STAGES["joint"].run(recipe)
    folder, _, _, rates = joined[0]
    assert rates.keys() == {"connector", "sana", "reference_cross"}  # the language model's codes would get worse
    checkpoint = open_checkpoint(folder)
    assert checkpoint.reference_mode.cross and checkpoint.reference_mode.noise
    connector = checkpoint.load_language(torch.float32).reference_connector
    assert torch.equal(connector[0].weight, trained[REFERENCE_CONNECTOR + "0.weight"])


def test_the_null_condition_is_that_of_inference(tmp_path, monkeypatch):
    """Catches zeros in its place: guidance then moves away from what SANA never saw."""
    settings = references.SETTINGS.replace(steps=1, batch=4, seed=5)
    monkeypatch.setattr(Recipe, "settings", lambda self, full: settings)
    monkeypatch.setattr(renderer, "IMAGES_PER_STEP", 8)
    monkeypatch.setattr(renderer, "DROPPED", 1.0)
    monkeypatch.setattr(references, "_EDITS", 1.0)
    monkeypatch.setattr(references, "_ALONE", 0.0)
    seen = []

    def append(*given):
        seen.append(given)
        return append_reference_tokens(*given)

    monkeypatch.setattr(references, "append_reference_tokens", append)
    recipe = Recipe(tmp_path, print, stage="references")
    language = recipe.start_checkpoint().load_language(torch.float32)
    null = connect(language.connector, torch.zeros(1, 1, language.config.hidden_size))[1]
    assert null.any()
    stages.STAGES["references"].run(recipe)
    ((context, tokens),) = seen
    assert torch.equal(context, null.expand_as(context)) and not tokens.any()


@pytest.mark.slow
def test_everything_of_a_step_is_on_the_device(tmp_path, monkeypatch):
    """Catches a tensor that the stage leaves on the CPU: a step on a card stops with it."""

    def look(network, make_data, loss, settings, *_):
        data = loop.moved(make_data(seeded(0)), torch.device("meta"))
        network.to("meta")
        with OneDevice():
            loss(data)[0].backward()
        raise Looked

    recipe = Recipe(tmp_path, print, stage="references")
    start = open_checkpoint(stages._with_references(recipe, recipe.start_checkpoint(), "references"))
    meant, latents = torch.zeros(8, 2, 64, dtype=torch.int64), torch.zeros(8, 2, SECOND_EDITION.latent_channels, 8, 8)
    monkeypatch.setattr(renderer, "encode", lambda *_: [(meant, latents[:, 0])])
    monkeypatch.setattr(references, "_encode_edits", lambda *_: [references._Group(meant, latents)])
    monkeypatch.setattr(references, "_EDITS", 1.0)
    monkeypatch.setattr(references, "_ALONE", 0.0)  # both ways in every step
    monkeypatch.setattr(references, "fit", look)
    settings = references.SETTINGS.replace(steps=3, batch=6, device="meta")
    with pytest.raises(Looked):
        references.train(start, tmp_path, settings, None, whole(renderer.WORLD), whole(references.EDITS))


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *given, **named):
        self.calls += 1
        return self.function(*given, **named)
