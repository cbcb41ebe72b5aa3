"""The recipe's stage `references`: what it trains, and that `joint` starts from it."""

import torch
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.tiny.recipe import references, renderer, stages
from blip3o_core.tiny.recipe.recipe import Recipe
from blip3o_core.weights.names import REFERENCE_CONNECTOR, SANA


def test_both_ways_of_a_reference_are_trained_and_joint_starts_from_them(tmp_path, monkeypatch):
    """Catches a connector that nothing trains, steps that all have both ways, and what is lost before `joint`."""
    settings = references.SETTINGS.replace(steps=10, batch=4, seed=5, warmup=0, log_every=1, ema_decay=None)
    monkeypatch.setattr(Recipe, "settings", lambda self, full: settings)
    monkeypatch.setattr(renderer, "IMAGES_PER_STEP", 3)
    monkeypatch.setattr(references, "_EDITS", 0.9)
    monkeypatch.setattr(references, "_ALONE", 0.4)
    monkeypatch.setattr(references, "append_reference_tokens", counted := Counted(references.append_reference_tokens))
    monkeypatch.setattr(references, "predict_side_by_side", beside := Counted(references.predict_side_by_side))
    joined = []
    monkeypatch.setattr(Recipe, "train_jointly", lambda self, stage, checkpoint, *_: joined.append(checkpoint))
    reported: list[dict] = []
    recipe = Recipe(tmp_path, reported.append, edition=2, stage="references")
    before = load_file(recipe.start_checkpoint().folder / "model.safetensors")
    stages.STAGES["references"].run(recipe)
    assert len(reported) == 10 and 0 < counted.calls < 10 and 0 < beside.calls < 10
    trained = load_file(tmp_path / "references.safetensors")
    first = SANA + "transformer_blocks.0.attn1.to_q.weight"
    assert not torch.equal(trained[first], before[first]) and trained[REFERENCE_CONNECTOR + "0.weight"].any()

    stages.STAGES["joint"].run(recipe)
    checkpoint = open_checkpoint(joined[0])
    assert checkpoint.reference_mode.cross and checkpoint.reference_mode.noise
    connector = checkpoint.load_language(torch.float32).reference_connector
    assert torch.equal(connector[0].weight, trained[REFERENCE_CONNECTOR + "0.weight"])


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *given, **named):
        self.calls += 1
        return self.function(*given, **named)
