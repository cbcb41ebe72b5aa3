"""The training loop on the tiny random checkpoint and six coloured squares: what it learns, and what one step is."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.training.data.latent_cache import ImageEncoder
from blip3o_core.training.data.order import ShuffledOrder
from blip3o_core.training.joint_model import JointModel
from blip3o_core.training.train_state import read_state
from blip3o_core.training.trainer import Trainer
from tests.support.training_world import assert_same_run


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_loss_falls(bf16, world):
    """Catches gradients that do not reach the weights, or reach them with the wrong sign, in either precision."""
    rates = dict.fromkeys(("language", "connector", "sana"), 3e-3)
    world.train(steps=12, batch=6, bf16=bf16, train=rates)
    log = world.log()
    for name, share in (("tokens", 0.5), ("diffusion", 0.85)):
        first, last = (sum(entry[name] for entry in part) / 4 for part in (log[:4], log[-4:]))
        assert last < share * first, (name, first, last)


def test_passes_add_up_to_one_batch(world):
    """Catches a gradient that is summed where it should be averaged, or averaged over microbatches of unequal weight.

    With labels on all text, microbatches have different numbers of labels.
    """
    settings = {"steps": 2, "all_text": True, "clip": 1e9}
    one = world.train("one", batch=6, **settings)
    two = world.train("two", batch=2, accumulation=3, **settings)
    assert_same_run(one, two)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(world, tmp_path, monkeypatch):
    """Catches NaN written into weights or a checkpoint, and a run that cannot resume after the cause is removed."""
    good = {"cache": str(tmp_path / "good"), "save_every": 1, "keep": 9, "steps": 2, "batch": 1}
    world.train("good", **good)
    broken, look = ShuffledOrder(6, 0).index(1), ImageEncoder.look

    def look_and_break(self, image):
        codes, latents = look(self, image)
        return codes, latents * (float("nan") if image.number == broken else 1)

    monkeypatch.setattr(ImageEncoder, "look", look_and_break)
    with pytest.raises(Blip3oError, match="Step 2 .*step-00000001"):
        world.train("bad", **good)
    assert [entry["step"] for entry in world.log("bad")] == [1]
    last = tmp_path / "bad" / "step-00000001"
    assert all(torch.isfinite(tensor).all() for tensor in weights(last).values())
    open_checkpoint(last).validate()
    monkeypatch.undo()
    resumed = world.train("bad", resume=True, **good)
    assert world.log("bad") == world.log("good")
    assert all(torch.equal(t, weights(tmp_path / "good" / resumed.name)[n]) for n, t in weights(resumed).items())


def test_weights_that_are_not_finite_are_not_saved(world, tmp_path):
    """Catches a last good checkpoint that is pushed out by a broken one: an update can overflow after a finite loss."""
    world.train(steps=2, save_every=1)
    trainer = Trainer(world.config(steps=3, save_every=1), resume=True)
    with torch.no_grad():
        next(iter(trainer.state.parameters.values())).fill_(float("nan"))
    with pytest.raises(Blip3oError, match="NaN"):
        trainer._save()
    assert trainer.folder.last.name == "step-00000002"


def test_the_walk_over_the_layers_is_that_of_inference(pipeline):
    """Catches training on other hidden states than those inference has: masks, positions or the last norm."""
    language = pipeline.language
    model = JointModel(language, pipeline.transformer)
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 7, language.config.hidden_size, generator=generator)
    positions = torch.arange(7)[None].expand(2, 7)
    masks = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 1, 7, 7).clone()
    masks[1, :, 4:, 1:3] = False
    for mask in (None, masks):
        assert (model.run_language(embeds, positions, mask) - language(embeds, positions, mask)).abs().max() < 1e-5


def test_gradient_checkpointing_changes_nothing(world, monkeypatch):
    """Catches a second forward pass that differs from the first, or one that never happens."""
    from blip3o_core.training import joint_model as parts

    passes = []
    real = parts.checkpointed
    monkeypatch.setattr(parts, "checkpointed", lambda *args, **kwargs: passes.append(1) or real(*args, **kwargs))
    one = world.train("one", steps=2)
    assert not passes
    two = world.train("two", steps=2, gradient_checkpointing=True)
    assert len(passes) == 2 * 2
    assert_same_run(one, two)


def test_every_row_has_its_own_randomness(world):
    """Catches one noise, timestep or dropout for a whole batch, and the same ones in every step or with every seed."""
    seen = []
    for seed in (0, 1):
        trainer = Trainer(world.config(seed=seed, condition_dropout=0.5, batch=6))
        for step in (0, 1):
            [one] = trainer.batches.microbatches(step)
            seen += [(float(t), float(n.sum())) for t, n in zip(one.noising.timesteps, one.noising.noise, strict=True)]
            assert one.noising.dropped.any() and not one.noising.dropped.all()
    assert len(set(seen)) == 24
    assert len({t for t, _ in seen}) > 20
    for share, expected in ((0.0, False), (1.0, True)):
        [one] = Trainer(world.config(condition_dropout=share)).batches.microbatches(0)
        assert (one.noising.dropped == expected).all()


def test_the_average_is_what_is_saved(world, tmp_path):
    """Catches an average that starts at zero, is one step late, or of which the state alone knows."""
    world.train(steps=3, save_every=1, keep=9, ema_decay=0.75)
    expected = weights(world.checkpoint)["model.norm.weight"]
    for step in (1, 2, 3):
        folder = tmp_path / "run" / f"step-{step:08d}"
        raw = read_state(folder / "training" / "state.pt", "")["parameters"]["language.model.norm.weight"]
        expected = 0.75 * expected + 0.25 * raw
        saved = weights(folder)["model.norm.weight"]
        assert (saved - expected).abs().max() < 1e-6
        assert not torch.equal(saved, raw)


def test_small_norms_and_biases_do_not_decay(world):
    """Catches weight decay on what has no scale to lose, a part's rate given to another, and rates that do not move."""
    rates = {"language": 1e-3, "connector": 2e-3, "caption_projection": 3e-3, "sana": 4e-3}
    trainer = Trainer(world.config(train=rates, weight_decay=0.1))
    trainer.train_step()
    names = {id(p): name for name, p in trainer.state.parameters.items()}
    seen = {}
    for group in trainer.state.optimizers[0].param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = group["lr"], group["weight_decay"]
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0)
    assert seen["language.model.norm.weight"] == (1e-3, 0)
    assert seen["language.model.diffusion_connector.0.weight"] == (2e-3, 0.1)
    assert seen["transformer.caption_projection.linear_1.weight"] == (3e-3, 0.1)
    assert seen["transformer.proj_out.bias"] == (4e-3, 0)
    groups = trainer.state.optimizers[0].param_groups
    assert len(seen) == len(trainer.state.parameters) == sum(len(group["params"]) for group in groups)


def test_samples_change_nothing(world, tmp_path):
    """Catches a grid of another model than the checkpoint's, which has the average, and sampling that moves the run."""
    prompts = ["a red square", "a blue square on white"]
    settings = {"steps": 2, "train": {"language": 1e-2, "sana": 1e-2}}
    world.train("plain", **settings)
    saved = world.train("shown", **settings, sample_every=1, sample_prompts=prompts, sample_steps=2, ema_decay=0.5)
    assert world.log("plain") == world.log("shown")
    grids = sorted((tmp_path / "shown" / "samples").iterdir())
    assert [grid.name for grid in grids] == [f"step-{step:08d}.png" for step in (1, 2)]
    contents = [Image.open(grid) for grid in grids]
    assert all(grid.size == (2 * 64, 64) for grid in contents)
    assert len({grid.tobytes() for grid in contents}) == 2
    pipeline = Pipeline.load(saved)
    expected = pipeline.render(pipeline.generate_tokens(prompts, [0, 1]), [0, 1], steps=2, guidance=2)
    shown = torch.tensor(np.array(contents[-1])) / 255
    assert (shown - torch.cat(list(expected), dim=1)).abs().max() < 0.02
    assert list((tmp_path / "shown" / "tensorboard").iterdir())


def test_the_source_is_not_written_to(world, tiny):
    """Catches training in the memory-mapped file: the checkpoint one starts from must stay what it is."""
    before = copy.deepcopy(weights(tiny))
    world.train(steps=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tiny).items())
