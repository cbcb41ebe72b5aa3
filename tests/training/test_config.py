"""The trainer's settings: what is read, and what is refused before a model loads."""

import dataclasses
import os

import pytest

from blip3o_core.cli.main import main
from blip3o_core.compat import TrainingQuirks
from blip3o_core.errors import Blip3oError
from blip3o_core.training.config import Lora, TrainingConfig, load_config
from blip3o_core.training.schedule import WarmupCosine

LEAST = {"checkpoint": "model", "out": "run", "data": "data", "train": {"connector": 1e-3}, "steps": 10}
ADAPTED = {"train": {"language": 1}}

REFUSED = {
    "unknown name": ({"learning_rte": 1}, "learning_rte is not a known setting. docs/training.md lists all"),
    "misspelt name": ({"acumulation": 2}, "Did you mean accumulation"),
    "missing name": ({"steps": ...}, "steps is missing"),
    "missing value": ({"steps": None}, "steps is None; it must be a number"),
    "unknown part": ({"train": {"conector": 1e-3}}, "train names 'conector', .* Did you mean connector"),
    "no part": ({"train": {}}, "train is {}; it must not be empty"),
    "parts without rates": ({"train": "connector"}, "train is 'connector'; it must be a mapping"),
    "rate of zero": ({"train": {"connector": 0}}, "train.connector is 0; it must be above 0. .*Leave out other parts"),
    "rate not a number": ({"train": {"connector": float("nan")}}, "train.connector is nan; it must be a finite number"),
    "rate as a word": ({"train": {"connector": "high"}}, "train.connector is 'high'; it must be a number"),
    "no steps": ({"steps": 0}, "steps is 0; it must be 1 or more"),
    "half a step": ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
    "endless steps": ({"steps": float("inf")}, "whole number"),
    "truth as a number": ({"steps": True}, "must be a number"),
    "word as truth": ({"bf16": "yes please"}, "must be true or false"),
    "dropout above 1": ({"condition_dropout": 1.1}, "condition_dropout is 1.1; it must be 1 or less"),
    "average that never moves": ({"ema_decay": 1}, "ema_decay is 1; it must be below 1"),
    "muon without a rate": ({"muon": 0}, "muon is 0; it must be above 0. Leave it out to train with AdamW alone"),
    "one beta": ({"betas": [0.9]}, r"betas is \[0.9\]; it must have 2 values"),
    "warm-up longer than the run": ({"warmup": 11}, r"warmup is 11; it must not exceed steps \(10\)"),
    "seed below zero": ({"seed": -1}, "seed is -1; it must be 0 or more"),
    "no data": ({"data": []}, "data is .*must not be empty"),
    "unknown fit": ({"fit": "pad"}, "fit is 'pad'; it must be 'crop', 'stretch' or 'keep'"),
    "samples of nothing": ({"sample_every": 5}, "sample_every is 5, but sample_prompts is empty"),
    "adapters of nothing": ({"lora": {}}, "Add train.language"),
    "rank of zero": ({"lora": {"rank": 0}, **ADAPTED}, "lora.rank is 0; it must be 1 or more"),
    "unknown layer": (
        {"lora": {"targets": ["q_prj"]}, **ADAPTED},
        r"lora.targets\[0\] is 'q_prj'; it must be 'q_proj', ",
    ),
    "unknown adapter setting": ({"lora": {"rnk": 4}, **ADAPTED}, "lora.rnk is not a known setting. Did you mean rank"),
    "an adapter alone without one": ({"adapter_only": True}, "adapter_only is true, but there is no lora to save"),
    "an adapter alone beside the connector": (
        {"adapter_only": True, "lora": {}, "train": {"language": 1, "connector": 1}},
        "train names connector, which would not be saved",
    ),
    "list as text": ({"out": ["a"]}, "must be text"),
    "steps that no one can count": ({"steps": 10**30}, "it must be 1,000,000,000 or less"),
    "batch beyond 64 bits": ({"batch": 2**70}, "batch is 1180591620717411303424; it must be 1,000,000,000 or less"),
    "rate that overflows": (
        {"train": {"connector": 1e300}},
        r"train.connector is 1e\+300; it must be 1,000,000 or less",
    ),
    "seed beyond 63 bits": ({"seed": 2**70}, "seed is .* or less"),
    "images that no memory holds": ({"batch": 2**11, "accumulation": 2**10}, "2,097,152 images for each step"),
    "rank of a billion": ({"lora": {"rank": 10**9}, **ADAPTED}, "lora.rank is 1000000000; it must be 4,096 or less"),
    "data of a number": ({"data": [3]}, r"data\[0\] is 3; it must be"),
    "a source without a path": ({"data": [{"weight": 2}]}, r"data\[0\].path is missing"),
    "a weight of zero": ({"data": [{"path": "a", "weight": 0}]}, r"data\[0\].weight is 0; it must be above 0"),
    "a misspelt weight": ({"data": {"path": "a", "wight": 2}}, "wight is not a known setting. Did you mean weight"),
    "half of the weights": ({"data": [{"path": "a", "weight": 2}, "b"]}, "data gives weights, but b has none"),
    "no workers": ({"workers": 0}, "workers is 0; it must be 1 or more"),
    "zero byte in a path": ({"out": "a\0b"}, "must not have a zero byte"),
}


@pytest.mark.parametrize("changes, shown", REFUSED.values(), ids=REFUSED)
def test_a_bad_setting_is_refused(changes, shown):
    """Catches a setting that is ignored, or fails hours later: the message names it, its value and what is allowed."""
    content = {name: value for name, value in {**LEAST, **changes}.items() if value is not ...}
    with pytest.raises(Blip3oError, match=shown) as raised:
        TrainingConfig(**content)
    assert "\n" not in str(raised.value)


def test_words_on_the_command_line_go_over_the_file(tmp_path):
    """Catches an override that replaces a whole mapping, or keeps `1e-4` as the text YAML takes it for."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "checkpoint: model\nout: run\ndata: [a, b.tar]\nsteps: 10\ntrain: {connector: 1e-3, language: 2e-4}\n"
        "lora: {rank: 4}\n"
    )
    config = load_config(path, ["steps=20", "train.connector=1e-4", "lora.alpha=8", "bf16=true", "ema_decay=null"])
    assert (config.steps, config.bf16, config.ema_decay, config.paths) == (20, True, None, ("a", "b.tar"))
    assert config.train == {"connector": 1e-4, "language": 2e-4}
    assert config.lora == Lora(rank=4, alpha=8.0)


def test_paths_may_begin_with_the_users_folder():
    """Catches a folder named ~ in the folder that the command runs in, and a checkpoint that is not found."""
    paths = {name: "~/x" for name in ("checkpoint", "out", "cache", "diffusion_folder")}
    config = TrainingConfig(**{**LEAST, **paths, "data": ["~/x", "./~"]})
    assert {getattr(config, name) for name in paths} == {os.path.expanduser("~/x")}
    assert config.paths == (os.path.expanduser("~/x"), "./~")


def test_every_quirk_has_a_setting():
    """Catches a behaviour of the authors' training that their own numbers need and no run can have."""
    names = [field.name for field in dataclasses.fields(TrainingQuirks)]
    assert TrainingConfig(**LEAST).quirks == TrainingQuirks()
    for name in names:
        assert TrainingConfig(**LEAST, **{name: True}).quirks == TrainingQuirks(**{name: True})


def test_all_faults_are_said_at_once(tmp_path):
    """Catches a message per attempt, and a fault of one file that does not say which file."""
    path = tmp_path / "recipe.yaml"
    path.write_text("checkpoint: model\nout: run\ndata: data\nsteps: 0\ntrain: {connector: -1}\nbatchs: 3\n")
    with pytest.raises(Blip3oError) as raised:
        load_config(path, ["warmup=x"])
    assert str(raised.value).splitlines() == [
        f"{path} with warmup=x has 4 faults:",
        "  train.connector is -1; it must be above 0. " + TrainingConfig.advice["train"],
        "  steps is 0; it must be 1 or more.",
        "  warmup is 'x'; it must be a number.",
        "  batchs is not a known setting. Did you mean batch?",
    ]


def test_changed_settings_are_checked_again():
    """Catches a copy of the settings that skips the checks, and settings that change under a run."""
    config = TrainingConfig(**LEAST)
    assert config.replace(steps=20).steps == 20 and config.steps == 10
    with pytest.raises(Blip3oError, match="steps is 0"):
        config.replace(steps=0)
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3


def test_mistakes_on_the_command_line_are_said(tmp_path, capsys):
    """Catches a traceback for a file that is absent, not YAML or not a mapping, and for a word without a value."""
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
