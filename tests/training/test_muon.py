"""Muon and AdamW together: which weights it moves, how far, and what is kept of it."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from blip3o_core.errors import Blip3oError
from blip3o_core.training import trainer as loop
from blip3o_core.training.joint_model import published_name
from blip3o_core.training.trainer import Trainer
from tests.support.training_world import assert_resumes

pytestmark = [
    pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon"),
]
RATES = {"language": 1e-3, "connector": 2e-3, "caption_projection": 3e-3, "sana": 4e-3}


def test_hidden_matrices_and_no_others_are_moved_by_muon(world):
    """Catches orthogonal steps on embeddings, heads, aligned cross-attention or adapters, and a weight moved twice.

    And gradients of earlier steps that are kept.
    """
    trainer = Trainer(world.config(train=RATES, muon=0.5, weight_decay=0.1))
    trainer.train_step()
    assert all(parameter.grad is None for parameter in trainer.state.parameters.values())
    names = {id(parameter): published_name(name) for name, parameter in trainer.state.parameters.items()}
    adamw, muon = (
        {names[id(p)]: (group["lr"], group["weight_decay"]) for group in one.param_groups for p in group["params"]}
        for one in trainer.state.optimizers
    )
    language = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    sana = [f"attn1.to_{x}" for x in ("q", "k", "v", "out.0")] + [f"attn2.to_{x}" for x in ("v", "out.0")]
    assert set(muon) == {
        f"{where}.{layer}.{name}.weight"
        for where, those in (("model.layers", language), ("model.sana.transformer_blocks", sana))
        for layer in (0, 1)
        for name in those
    }
    assert all(value == (5e-4 if name.startswith("model.layers") else 2e-3, 0.1) for name, value in muon.items())
    assert adamw["model.embed_tokens.weight"] == (1e-3, 0.1)
    assert adamw["model.sana.transformer_blocks.0.attn2.to_q.weight"] == (4e-3, 0.1)
    assert not set(adamw) & set(muon) and set(adamw) | set(muon) == set(names.values())
    adapted = Trainer(world.config(train=RATES, muon=0.5, lora={"rank": 2}))
    taken = {id(p) for group in adapted.state.optimizers[1].param_groups for p in group["params"]}
    assert not any("lora" in name for name, parameter in adapted.state.parameters.items() if id(parameter) in taken)


@pytest.mark.slow
def test_a_step_is_orthogonal_and_as_long_as_adamws(world):
    """Catches rates that mean something else than AdamW's, and Muon groups that no schedule reaches."""
    name, rate = "model.layers.0.mlp.up_proj.weight", 1e-2
    before = load_file(world.checkpoint / "model.safetensors")[name]
    moved = {}
    for muon in (None, 1.0, 0.5):
        saved = world.train(f"run{muon}", steps=1, train={"language": rate}, muon=muon)
        moved[muon] = load_file(saved / "model.safetensors")[name] - before
    sizes = {muon: float(step.pow(2).mean().sqrt()) for muon, step in moved.items()}
    assert sizes[None] == pytest.approx(rate, rel=0.05)
    assert sizes[1.0] == pytest.approx(0.2 * rate, rel=0.2)
    assert sizes[0.5] == pytest.approx(sizes[1.0] / 2, rel=0.01)
    values = {muon: torch.linalg.svdvals(step) for muon, step in moved.items()}
    even = {muon: float(value.median() / value.max()) for muon, value in values.items()}
    assert even[1.0] > 0.6 and even[None] < 0.4, even
    world.train("warm", steps=2, train={"language": rate}, muon=1.0, warmup=2, save_every=1)
    half = load_file(world.folder / "warm" / "step-00000001" / "model.safetensors")[name] - before
    assert float(half.pow(2).mean().sqrt()) == pytest.approx(sizes[1.0] / 2, rel=0.01)


@pytest.mark.long
def test_muon_resumes(world):
    """Catches momentum that starts again from nothing, or is given to other weights, when a run is continued."""
    settings = {"muon": 1.0, "ema_decay": 0.5, "weight_decay": 0.01}
    assert_resumes(world, **settings)
    with pytest.raises(Blip3oError, match="muon 1.0"):
        world.train("resumed", resume=True, **{**settings, "steps": 5, "muon": None})


def test_muon_is_refused_where_it_cannot_work(world, monkeypatch):
    """Catches a setting without effect, and orthogonal steps on the shares of a divided matrix."""
    with pytest.raises(Blip3oError, match="no hidden matrices"):
        world.train(train={"connector": 1e-3}, muon=1.0)
    with pytest.raises(Blip3oError, match="besides adapters"):
        world.train(train={"language": 1e-3}, muon=1.0, lora={"rank": 2})
    divided = SimpleNamespace(num_processes=2, distributed_type=SimpleNamespace(name="FSDP"), is_fsdp2=True)
    monkeypatch.setattr(loop, "_accelerator", lambda config: divided)
    with pytest.raises(Blip3oError, match="muon needs whole matrices"):
        Trainer(world.config(muon=1.0))
