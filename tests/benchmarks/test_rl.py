"""The benchmark of reinforcement learning: its command runs to the end, and says what changed."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import rl
from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.rewards.load import load_rewards
from blip3o_core.tiny import CATEGORIES, rasterize
from blip3o_core.tiny.scenes.edits import COMPOSE, EDIT_KINDS, edit_kinds
from blip3o_core.tiny.scenes.world import World, make_scene
from blip3o_core.tiny.tasks import EDIT_WORLD
from blip3o_core.training.run_folder import RunFolder

pytest.importorskip("trl", reason="the `rl` extra is not installed")

SMALL = {"updates": 2, "prompts": 2, "group": 2, "batch": 4, "held_out": 2, "held_out_every": 2, "save_every": 2,
         "steps": 1, "held_out_steps": 1, "count": 8}  # fmt: skip


def drawn(scene, side: int = 64) -> torch.Tensor:
    return torch.from_numpy(rasterize(scene, side)).float() / 255


@pytest.mark.long
def test_a_study_trains_measures_and_is_not_repeated(tmp_path, monkeypatch):
    """Catches settings that GRPO refuses, tables of another model than the trained one, and numbers made twice."""
    monkeypatch.setattr(rl, "STEPS", 1)
    text = rl.run(["categories"], tmp_path, 1, **SMALL)
    lines = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("|")}
    assert set(lines) >= {*CATEGORIES, "mean", "largeness", "kl", "entropy"}
    before, after, change = map(float, lines["mean"])
    assert after - before == pytest.approx(change, abs=0.11)
    log = RunFolder(tmp_path / "categories" / "judge" / "seed-0" / "run").log.read_text()
    assert log.count('"kl"') == 2
    monkeypatch.setattr(rl, "train", None)
    assert rl.run(["categories"], tmp_path, 1, **SMALL) == text == (tmp_path / "result.md").read_text()


def standing(side: int) -> SimpleNamespace:
    """For a pipeline whose checkpoint makes images of this size: of the first or the second edition."""
    bundled = open_checkpoint(BUNDLED)
    checkpoint = SimpleNamespace(folder=bundled.folder, trained_side=side)
    return SimpleNamespace(checkpoint=checkpoint, reference_mode=bundled.reference_mode)


def test_edits_are_measured_by_what_they_are_rewarded_for(monkeypatch):
    """Catches a consistency of other images than those that are judged."""
    monkeypatch.setattr(rl, "STEPS", 1)
    monkeypatch.setattr(
        rl.edit_evaluation, "run_edits", lambda pipeline, pairs, *rest: torch.stack([drawn(e.source) for e, _ in pairs])
    )
    numbers = rl.edit_numbers(standing(64), 12, 0)
    # Doing nothing is right where nothing is asked for, and consistent there alone.
    assert numbers["keep"] == 100 and numbers["error outside"] == 0
    assert numbers["consistency"] == pytest.approx(100 / 6, abs=0.1) and numbers["recolour"] == 0


def test_edits_are_of_the_edition_of_the_checkpoint(monkeypatch):
    """Catches edits of small images without compositions, asked of a model of the second edition."""
    monkeypatch.setattr(
        rl.edit_evaluation, "run_edits", lambda _, pairs, *rest: torch.stack([drawn(e.source, 128) for e, _ in pairs])
    )
    numbers = rl.edit_numbers(standing(128), 14, 0)
    assert set(numbers) >= {*EDIT_KINDS, COMPOSE} and numbers["keep"] == 100


def test_the_narrow_reward_knows_nothing_but_size():
    """Catches a narrow reward that the judge's prompts enter, and one that cannot be named in settings."""
    mix = load_rewards(rl.STUDIES["mix"].variants["large + judge"]["rewards"], own_code=True)
    assert [part.name for part in mix.parts] == ["largeness", "tiny"]
    scenes = [make_scene(0, "train", k, World(), "size") for k in range(8)]
    images = [drawn(scene) for scene in scenes]
    found = rl.Largeness()(images, [""] * 8, [()] * 8, [None] * 8, [{}] * 8)
    for scene, value in zip(scenes, found, strict=True):
        assert value == pytest.approx(scene.objects[0].radius / rl.LARGEST, abs=0.06)


def test_what_is_trained_on_is_mostly_of_the_weakest_categories():
    """Catches a choice of categories that does not reach the prompts."""
    tasks = rl.weak_tasks(24, "train", 0)
    assert sum(task.group in rl.WEAK for task in tasks) == 18
    kept = rl.weak_tasks(6, "held_out", 0)
    assert {task.group for task in kept} == set(rl.WEAK)


def test_weak_edits_are_most_of_what_is_trained_on():
    """Catches tasks of one kind alone, an instruction that comes twice, and a held-out set of the weak kinds."""
    kinds = [task.group for task in rl.weak_edit_tasks(26, "train", 0)]
    every = edit_kinds(EDIT_WORLD)
    assert all(kinds.count(kind) == (6 if kind in rl.WEAK_EDITS else 2) for kind in every)
    held_out = [task.group for task in rl.weak_edit_tasks(14, "held_out", 0)]
    assert all(held_out.count(kind) == 2 for kind in every)
