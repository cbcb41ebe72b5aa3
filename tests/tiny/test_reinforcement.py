"""Reinforcement from codes in the recipe: what is judged, whom it is compared with, and what becomes likelier."""

import pickle
from types import SimpleNamespace

import torch
from torch.nn.functional import cross_entropy

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.tiny.recipe.language import Edits, edit_item
from blip3o_core.tiny.recipe.model_config import sizes_of
from blip3o_core.tiny.recipe.oracle_codes import batch_codes
from blip3o_core.tiny.recipe.reinforcement import Reinforcement, Task
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.world import SECOND, make_scene
from blip3o_core.training.data.collate import collate
from blip3o_core.training.data.encoded import EncodedItem
from blip3o_core.training.joint_model import JointModel
from blip3o_core.training.losses import hidden_states, image_states

WORLD = SECOND
SIZES = sizes_of(WORLD)


def scene_and_codes(index: int):
    scene = make_scene(0, "train", index, WORLD, "color_attr")
    return scene, batch_codes([scene], SIZES)[0]


def test_images_are_compared_with_those_of_their_own_prompt():
    """Catches an image that is rewarded for an easy prompt, and a group whose few wrong images are not looked at."""
    credits = [1.0] * 7 + [0.5] + [0.5] * 8 + [1.0, 0.0] * 4
    verdicts = [SimpleNamespace(strict=credit == 1, credit=credit) for credit in credits]
    advantages = Reinforcement(1.0)._advantages(verdicts).view(3, 8)
    assert advantages[0, 7] < -1 and (advantages[0] > 0).sum() == 3 and not advantages[1].any()
    assert (advantages[2, ::2] >= 0).all() and (advantages[2, 1::2] <= 0).all() and advantages[2].count_nonzero() == 4
    assert advantages.sum(1).abs().max() < 1e-3


def test_codes_are_judged_as_they_are_drawn():
    """Catches a judge of another scene, an edit judged without what must be kept, and a task no process can send."""
    (scene, codes), (_, others) = scene_and_codes(0), scene_and_codes(1)
    task = Task.of_scene(caption(scene, 0), scene, SIZES, 0)
    task = pickle.loads(pickle.dumps(task))
    assert task.judge(codes.numpy()).strict and not task.judge(others.numpy()).strict
    ((text, edit),) = Edits(WORLD, {"recolour": 1.0}).draw(torch.Generator().manual_seed(3), 1)
    item = edit_item(edit, SIZES)
    task = Task(text, item, edit, SIZES, 0)
    assert task.judge(item.codes.numpy()).strict and not task.judge(item.references[0].numpy()).strict


def test_the_better_images_of_a_group_become_likelier(monkeypatch):
    """Catches a sign that is the wrong way round, and probabilities of other codes than those that were judged."""
    checkpoint = open_checkpoint(BUNDLED)
    model, encoder = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder
    model.requires_grad_(True)
    run = JointModel(model, torch.nn.Identity()).run_language
    (scene, right), (_, wrong) = scene_and_codes(0), scene_and_codes(1)
    task = Task.of_scene(caption(scene, 0), scene, SIZES, 0)

    def likelihoods() -> torch.Tensor:
        batch = collate(encoder, [task.text] * 2, [EncodedItem(right), EncodedItem(wrong)])
        states = image_states(hidden_states(model, batch, run), batch)[:, :-1]
        logits = states @ model.head_weight(states, image_tokens_only=True).T
        return -cross_entropy(logits.flatten(0, 1), torch.cat([right, wrong]), reduction="none").view(2, -1).mean(1)

    written = torch.stack([right, wrong, wrong, right])
    monkeypatch.setattr(Reinforcement, "_write", lambda *_: written)
    before = likelihoods().detach()
    loss, numbers = Reinforcement(1.0, group=4).loss(model, run, encoder, [task])
    assert numbers["right"] == 0.5 and torch.isclose(loss, (before[1] - before[0]) * 0.433, rtol=0.01)
    loss.backward()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter -= 0.01 * parameter.grad
    change = likelihoods() - before
    assert change[0] > 0 > change[1]
