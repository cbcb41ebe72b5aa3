"""Stages of the recipe on another device: the same numbers on the CPU, nothing left behind elsewhere."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.seeds import seeded
from blip3o_core.tiny.recipe import (
    autoencoder,
    connector,
    image_tokenizer,
    language,
    loop,
    model_config,
    renderer,
)
from blip3o_core.tiny.recipe.ahead import made_ahead
from blip3o_core.tiny.recipe.assemble import assemble
from blip3o_core.tiny.recipe.recipe import Recipe
from blip3o_core.tiny.recipe.worlds import whole
from blip3o_core.tiny.scenes.world import World

STAGES = {one.__name__.rpartition(".")[2]: one for one in (autoencoder, image_tokenizer, language, renderer, connector)}
# Losses of the first and the last of three steps in float32 with 6 rows: in the stages' own worlds, as the quick recipe
# has them, and in the whole world.
PLAIN, WHOLE = "plain", "whole"
LOSSES: dict[str, dict[str, tuple[float, float]]] = {
    PLAIN: {
        "autoencoder": (11.47868, 7.60635),
        "image_tokenizer": (19.44963, 18.33368),
        "language": (7.85079, 5.37378),
        "renderer": (4.25827, 2.21849),
        "connector": (10.65349, 8.92814),
    },
    WHOLE: {
        "autoencoder": (27.13041, 7.54582),
        "image_tokenizer": (15.10423, 17.79876),
        "language": (7.92927, 6.156),
        "renderer": (4.70677, 7.10576),
        "connector": (8.48301, 7.89527),
    },
}


@dataclass(frozen=True)
class Started:
    """A folder with the starting values of all parts."""

    kind: str
    out: Path

    def world(self, world: World) -> World:
        return world if self.kind == PLAIN else whole(world)

    @property
    def sizes(self) -> model_config.Sizes:
        return model_config.sizes_of(self.world(language.WORLD))


@pytest.fixture(scope="module", params=[PLAIN, pytest.param(WHOLE, marks=pytest.mark.long)])
def recipe(request, tmp_path_factory) -> Started:
    made = Started(request.param, tmp_path_factory.mktemp("recipe"))
    assemble(made.out, made.out / "start", sizes=made.sizes)
    return made


def train(stage: str, recipe: Started, folder, **changes):
    """What a stage trains for a few steps with few rows."""
    module = STAGES[stage]
    settings = module.SETTINGS.replace(steps=3, warmup=1, batch=6, bf16=False).replace(**changes)
    given = () if module in (autoencoder, image_tokenizer) else (open_checkpoint(recipe.out / "start"),)
    if module is language and recipe.kind == WHOLE:
        additions = language.Additions(language.Edits(recipe.world(language.EDITS)))
        return module.train(*given, folder, settings, None, recipe.world(module.WORLD), additions)
    return module.train(*given, folder, settings, None, recipe.world(module.WORLD))


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(autoencoder, "RESCALE_IMAGES", 16)
    monkeypatch.setattr(renderer, "IMAGES_PER_STEP", 10)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_first_losses_are_those_of_before(stage, recipe, tmp_path, few_images):
    """Catches random numbers that are drawn in another order, or for other data, than runs so far drew them."""
    train(stage, recipe, tmp_path / stage)
    found = [json.loads(line)["loss"] for line in (tmp_path / stage / "log.jsonl").read_text().splitlines()]
    assert found == pytest.approx(LOSSES[recipe.kind][stage], rel=1e-4)


class OneDevice(TorchDispatchMode):
    """Refuses an operation on tensors of two devices, which a card refuses, too; single numbers may be anywhere.

    A number that is read is 0: tensors of the device "meta" have no values.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, torch.Tensor) and one.ndim]
        assert len({one.device.type for one in tensors}) < 2, f"{func} has tensors on two devices"
        return 0 if func is torch.ops.aten._local_scalar_dense.default else func(*args, **(kwargs or {}))


class Looked(Exception):
    """The step was looked at."""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_everything_of_a_step_is_on_the_device(stage, recipe, tmp_path, monkeypatch):
    """Catches a tensor that a stage leaves on the CPU: a step on a card stops with it."""

    def look(network, make_data, loss, settings, *_):
        data = loop.moved(make_data(seeded(0)), torch.device("meta"))
        network.to("meta")
        with OneDevice():
            value, _ = loss(data)
            value.backward()
        assert value.device.type == "meta"
        raise Looked

    meant, latents = torch.zeros(8, 2, 64, dtype=torch.int64), torch.zeros(8, recipe.sizes.latent_channels, 8, 8)
    monkeypatch.setattr(STAGES[stage], "fit", look)
    monkeypatch.setattr(renderer, "encode", lambda *_: [(meant, latents.bfloat16())])
    # Which positions count follows from values, too.
    monkeypatch.setattr(language, "token_loss", lambda model, hidden, labels: (hidden.sum(-1) * labels).sum())
    with pytest.raises(Looked):
        train(stage, recipe, tmp_path, device="meta")


def test_data_that_processes_make_is_the_same():
    """Catches data in another order, made twice, or random numbers of a process's own."""

    def make(number: int) -> tuple[int, torch.Tensor]:
        return number, torch.randn(3, generator=seeded(number))

    before = torch.get_rng_state()
    alone, ahead = (list(made_ahead(make, range(3, 11), workers)) for workers in (0, 2))
    assert [number for number, _ in ahead] == list(range(3, 11))
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(alone, ahead, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_a_fault_in_a_process_is_said():
    """Catches a training that waits for ever for data that cannot be made."""

    def make(number: int) -> int:
        raise ValueError("no scene")

    with pytest.raises(ValueError, match="no scene"):
        list(made_ahead(make, range(4), 2))


def test_a_card_has_workers_and_the_cpu_has_none(tmp_path, monkeypatch):
    """Catches processes that take cores from a training on the CPU, and a card that waits for its data."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    card = Recipe(tmp_path, print, device="cuda")
    assert card.trainers_device == "auto" and Recipe(tmp_path, print).trainers_device == "cpu"
    settings = card.settings(language.SETTINGS)
    assert (settings.device, settings.workers) == ("cuda", 3)
    settings = Recipe(tmp_path, print).settings(language.SETTINGS)
    assert (settings.device, settings.workers) == ("cpu", 0)
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert card.settings(language.SETTINGS).workers == 0  # Windows cannot copy a process
