"""The loop that trains one part: an interrupted run is finished as if it had not been, and nothing good is lost."""

import json

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.tiny.recipe.loop import FitSettings, fit


def tiny_fit(folder, steps, stop=None, **more):
    torch_state = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=torch_state) * 0.1)

    steps_made = []

    def make_data(generator):
        return torch.randn(8, 3, 4, 4, generator=generator)

    def loss(x):
        steps_made.append(x)
        if len(steps_made) - 1 == stop:
            raise KeyboardInterrupt
        return (network(x) - x.mean((2, 3))[:, :2]).square().mean(), {}

    settings = FitSettings(steps=steps, lr=1e-2, muon=0.02, warmup=2, ema_decay=0.9, bf16=False, save_every=4)
    settings = settings.replace(log_every=1, **more)
    fit(network, make_data, loss, settings, folder)
    return network.state_dict()


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path):
    """Catches state that is not saved: momentum, the average, the random stream."""
    whole = tiny_fit(tmp_path / "whole", 12)
    with pytest.raises(KeyboardInterrupt):
        tiny_fit(tmp_path / "cut", 12, stop=7)
    again = tiny_fit(tmp_path / "cut", 12)
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert steps[-1] == 12


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path):
    """Catches NaN weights over the last good ones."""
    tiny_fit(tmp_path, 4)
    before = (tmp_path / "state.pt").read_bytes()
    network = torch.nn.Linear(2, 2)
    with pytest.raises(Blip3oError, match="loss is nan.*last good state"):
        settings = FitSettings(steps=8, lr=1e-3, muon=1e-3)
        fit(network, lambda g: None, lambda _: (network.weight.sum() * float("nan"), {}), settings, tmp_path / "n")
    assert (tmp_path / "state.pt").read_bytes() == before
