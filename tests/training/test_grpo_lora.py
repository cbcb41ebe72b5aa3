"""GRPO of a LoRA, and several updates for each rollout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.pipeline import Pipeline
from blip3o_core.training.run_folder import RunFolder
from blip3o_core.training.watch import Watch
from blip3o_core.weights.lora import language_matrices, read_lora
from tests.support import rl
from tests.support.paths import TOP
from tests.support.rl import trained, updates, weights_after
from tests.support.training_world import ENVIRONMENT

pytest.importorskip("trl", reason="the `rl` extra is not installed")

LORA = {"rank": 4, "alpha": 8, "targets": ("q_proj", "v_proj", "down_proj"), "save": "adapter"}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return rl.small_checkpoint(tmp_path_factory.mktemp("grpo") / "model")


@pytest.fixture
def settings(source, tmp_path):
    return rl.small_settings(source, tmp_path / "run").replace(lora=LORA)


@pytest.fixture
def codes_as_images(monkeypatch):
    rl.make_images_of_codes(monkeypatch)


def test_rollouts_run_through_the_adapters_that_are_trained(settings):
    """Catches rollouts of the checkpoint's own weights, and adapters that are in one of the two networks alone."""
    trainer = rl.make_trainer(settings)
    language = trainer.rollout_func.__self__.roller.pipeline.language
    policy = trainer.model
    assert trainer.ref_model is None
    before = {name: tensor.clone() for name, tensor in policy.named_parameters()}
    ids = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0)) + language.vocabulary.image_start

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        embeds = language.embed(ids, torch.float32)
        positions = torch.arange(9).expand(2, 9)
        with torch.no_grad():
            return language(embeds, positions), policy.get_base_model().model(ids).last_hidden_state

    first, _ = both()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    mine, theirs = both()
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert (mine - first).abs().max() > 0.01
    with policy.disable_adapter():
        assert torch.equal(both()[0], first)  # the reference
    trained_names = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert len(trained_names) == 12 and all(".lora_" in name for name in trained_names)
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters() if ".lora_" not in n)


@pytest.mark.long
def test_what_a_lora_learns_is_what_every_loader_adds(settings, source, codes_as_images):
    """Catches an adapter that the pack's loader reads otherwise, frozen weights that moved, and a wrong merge."""
    best, log = trained(settings.replace(kl=0.0, lr=0.02))
    assert updates(log, "reward") and not updates(log, "kl")
    if best.name == "step-00000000":  # the run was lucky before it learnt
        pytest.skip("nothing was better than the start")
    saved, before = load_file(best / "model.safetensors"), load_file(source / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in before.items())
    pipeline = Pipeline(open_checkpoint(source), dtype=torch.float32)
    lora = read_lora(best / "adapter", language_matrices(pipeline.language))
    assert len(lora.changes) == 6 and all(change.scale == 2 for change in lora.changes.values())
    state = weights_after(settings, int(best.name[-8:])) if int(best.name[-8:]) in (2, 4) else {}
    adapter = load_file(best / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(adapter[name], tensor) for name, tensor in state.items())

    merged, _ = trained(
        settings.replace(kl=0.0, lr=0.02, out=settings.out + "-merged", lora={**LORA, "save": "merged"})
    )
    pipeline.add_lora(lora)
    own = dict(pipeline.language.named_parameters())
    learnt = load_file(merged / "model.safetensors")
    for name in lora.changes:
        assert not torch.equal(learnt[name], before[name])
        assert torch.allclose(learnt[name].float(), own[name], atol=1e-2 * float(own[name].abs().max()))


@pytest.mark.long
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_interrupted_runs_with_several_updates_per_rollout_resume_exactly(
    settings, codes_as_images, monkeypatch, tmp_path, lora
):
    """Catches a resumed run that reuses other images, other old probabilities, or a fresh adapter."""
    settings = settings.replace(gradient_checkpointing=lora is not None)
    settings = settings.replace(lora=lora, iterations=2, updates=8, epsilon_high=0.3, entropy_bonus=0.01, kl=0.01)
    whole = settings.replace(out=str(tmp_path / "whole"))
    _, wanted = trained(whole)
    assert updates(wanted, "clipped") and len(updates(wanted, "reward")) == 4
    assert len(updates(wanted, "entropy")) == 8
    rl.interrupt_rollout(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        trained(settings)
    monkeypatch.undo()
    rl.make_images_of_codes(monkeypatch)
    seen = []
    # Asked to stop behind the fifth update, it learns from the same images once more.
    trained(settings, resume=True, watch=Watch(report=lambda entry: seen.append(entry), stop=lambda: len(seen) > 0))
    states = sorted(path.name for path in (Path(settings.out) / "trainer").glob("checkpoint-*"))
    assert states == ["checkpoint-4", "checkpoint-6"]
    best, log = trained(settings, resume=True)
    assert log == wanted
    mine, theirs = weights_after(settings, 8), weights_after(whole, 8)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert best.name == RunFolder(Path(whole.out)).last.name


@pytest.mark.long
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_two_processes_are_one_with_all_the_images(source, tmp_path, lora):
    """Catches processes that make the same images, that split a group, or whose gradients are summed."""
    settings = {**rl.SMALL, "checkpoint": str(source), "lora": lora and {**lora, "targets": list(lora["targets"])}}
    # The tiny judge is in steps: a last bit of a pixel may change its number.
    (tmp_path / "judge.py").write_text("def bright(images, *_):\n    return [100 * float(i.mean()) for i in images]\n")
    settings |= {"held_out": 5, "clip": 1e9, "kl": 0.1, "bf16": False}
    settings["rewards"] = [{"name": "bright", "use": f"{tmp_path / 'judge.py'}:bright"}]
    for name in ("alone", "both"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**settings, "out": str(tmp_path / name)}))
    words = ["-m", "blip3o_core", "grpo"]
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    for command in ([*words, str(tmp_path / "alone.yaml")], [*torchrun, *words, str(tmp_path / "both.yaml")]):
        done = subprocess.run([sys.executable, *command], env=ENVIRONMENT, cwd=TOP, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("alone", "both")]
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        numbers = [name for name, value in mine.items() if isinstance(value, float) and name != "loss"]
        assert all(theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5) for name in numbers)
    runs = [rl.small_settings(source, tmp_path / name).replace(lora=lora) for name in ("alone", "both")]
    one, two = (weights_after(run, 4) for run in runs)
    # Adam makes steps of equal size of the smallest gradients, too: some weights may move otherwise.
    before = {name: torch.zeros_like(tensor) for name, tensor in one.items()}
    if lora is None:
        before = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one)
    moved = sum(float((one[name] - before[name]).square().sum()) for name in one)
    assert one.keys() == two.keys() and apart < 1e-4 * moved
