"""The trainer's settings: what is read, and what is refused before a model loads."""

import pytest

from blip3o_core.__main__ import main
from blip3o_core.errors import Blip3oError
from blip3o_core.training.config import Lora, config_from, load_config
from blip3o_core.training.schedule import WarmupCosine

LEAST = {"checkpoint": "model", "out": "run", "data": "data", "train": {"connector": 1e-3}, "steps": 10}

REFUSED = {
    "unknown name": ({"learning_rte": 1}, "learning_rte"),
    "misspelt name": ({"acumulation": 2}, "Did you mean accumulation"),
    "missing name": ({"steps": ...}, "lacks steps"),
    "missing value": ({"steps": None}, "steps"),
    "unknown part": ({"train": {"conector": 1e-3}}, "Did you mean connector"),
    "no part": ({"train": {}}, "must name a part"),
    "parts without rates": ({"train": "connector"}, "mapping"),
    "rate of zero": ({"train": {"connector": 0}}, "leave a part out"),
    "rate below zero": ({"train": {"connector": -1}}, "train.connector"),
    "rate not a number": ({"train": {"connector": float("nan")}}, "train.connector"),
    "rate as a word": ({"train": {"connector": "high"}}, "must be a number"),
    "no steps": ({"steps": 0}, "steps"),
    "half a step": ({"steps": 1.5}, "whole number"),
    "endless steps": ({"steps": float("inf")}, "whole number"),
    "truth as a number": ({"steps": True}, "must be a number"),
    "word as truth": ({"bf16": "yes please"}, "true or false"),
    "batch of zero": ({"batch": 0}, "batch"),
    "dropout above 1": ({"condition_dropout": 1.1}, "condition_dropout"),
    "clip of zero": ({"clip": 0}, "clip"),
    "average that never moves": ({"ema_decay": 1}, "ema_decay"),
    "muon without a rate": ({"muon": 0}, "muon"),
    "one beta": ({"betas": [0.9]}, "betas"),
    "warm-up longer than the run": ({"warmup": 11}, "warmup"),
    "seed below zero": ({"seed": -1}, "seed"),
    "no data": ({"data": []}, "data"),
    "unknown fit": ({"fit": "pad"}, "fit"),
    "unknown device": ({"device": "toaster"}, "device"),
    "samples of nothing": ({"sample_every": 5}, "sample_prompts"),
    "adapters of nothing": ({"lora": {}}, "train.language"),
    "rank of zero": ({"lora": {"rank": 0}, "train": {"language": 1}}, "lora.rank"),
    "unknown layer": ({"lora": {"targets": ["q_prj"]}, "train": {"language": 1}}, "lora.targets"),
    "unknown adapter setting": ({"lora": {"rnk": 4}, "train": {"language": 1}}, "Did you mean rank"),
    "unknown way to save": ({"lora": {"save": "both"}, "train": {"language": 1}}, "lora.save"),
    "list as text": ({"out": ["a"]}, "out"),
}


@pytest.mark.parametrize("changes, shown", REFUSED.values(), ids=REFUSED)
def test_a_bad_setting_is_refused(changes, shown):
    """Catches a setting that is ignored, or fails hours later: the message names it."""
    content = {name: value for name, value in {**LEAST, **changes}.items() if value is not ...}
    with pytest.raises(Blip3oError, match=shown):
        config_from(content)


def test_words_on_the_command_line_go_over_the_file(tmp_path):
    """Catches an override that replaces a whole mapping, or keeps `1e-4` as the text YAML takes it for."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "checkpoint: model\nout: run\ndata: [a, b.tar]\nsteps: 10\ntrain: {connector: 1e-3, language: 2e-4}\n"
        "lora: {rank: 4}\n"
    )
    config = load_config(path, ["steps=20", "train.connector=1e-4", "lora.alpha=8", "bf16=true", "ema_decay=null"])
    assert (config.steps, config.bf16, config.ema_decay, config.data) == (20, True, None, ("a", "b.tar"))
    assert config.train == {"connector": 1e-4, "language": 2e-4}
    assert config.lora == Lora(rank=4, alpha=8.0)


def test_mistakes_on_the_command_line_are_said(tmp_path, capsys):
    """Catches a traceback for a file that is absent, no YAML or no mapping, and for a word that is no setting."""
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "good.yaml").write_text("checkpoint: /nowhere\nout: run\ndata: d\nsteps: 1\ntrain: {sana: 1}\n")
    cases = ["absent.yaml"], ["list.yaml"], ["broken.yaml"], ["good.yaml", "resume"], ["good.yaml", "a=["]
    for file, *words in cases:
        assert main(["train", str(tmp_path / file), *words]) == (2 if words == ["resume"] else 1)
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and not said.out
        assert (words or [file])[0] in said.err
    assert main(["train", str(tmp_path / "good.yaml"), f"out={tmp_path / 'run'}"]) == 1
    assert "/nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_rises_and_falls():
    """Catches a first step without effect, a peak that is never reached, and an end that is not the one asked for."""
    schedule = WarmupCosine(steps=12, warmup=4, final=0.1)
    scales = [schedule.scale(step) for step in range(12)]
    assert scales[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert scales[4:] == sorted(scales[4:], reverse=True)
    assert schedule.scale(12) == pytest.approx(0.1)
    assert schedule.scale(8) == pytest.approx(0.55)
