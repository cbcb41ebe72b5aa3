"""The tiny world's judge as a reward."""

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from blip3o_core.tiny.judge.judge import judge_edit, judge_image
from blip3o_core.tiny.judge.reward import TinyReward
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.edits import make_edit
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tiny.scenes.world import World, make_scene


def image_of(scene):
    return torch.from_numpy(rasterize(scene)).float() / 255


def scores(images, meta, **options):
    mix = load_rewards([{"name": "tiny", "options": options}])
    return mix.score(Candidates(images, ["a prompt"] * len(images), meta=meta)).parts["tiny"]


def test_right_images_get_1_and_others_their_credit():
    """Catches a reward that differs from the judge's verdict, for images and for edits."""
    right, wrong = (make_scene(5, "train", index, World(), "two_object") for index in (0, 1))
    edit = make_edit(5, "train", 0, World(), "recolour")
    meta = [{"spec": spec_of(right)}, {"spec": spec_of(right)}, {"edit": edit}, {"edit": edit}, {}]
    images = [image_of(scene) for scene in (right, wrong, edit.target, edit.source, right)]
    partial = judge_image(images[1].numpy(), spec_of(right)).credit, judge_edit(images[3].numpy(), edit).credit
    assert all(0 < one < 1 for one in partial)
    found = scores(images, meta)
    assert found == [1.0, pytest.approx(0.3 * partial[0]), 1.0, pytest.approx(0.3 * partial[1]), None]
    assert scores(images[:2], meta[:2], strict=0) == [1.0, pytest.approx(partial[0])]


def test_what_it_cannot_compare_with_is_named():
    """Catches tasks of other worlds that are judged as if they were of this one."""
    with pytest.raises(Blip3oError, match="meta 'spec' is 'a red fox', not Spec of the tiny world"):
        scores([torch.zeros(64, 64, 3)], [{"spec": "a red fox"}])
    for strict in (1.5, "high", True, float("nan")):
        with pytest.raises(Blip3oError, match="Reward 'tiny': strict is "):
            scores([], [], strict=strict)


def test_without_more_the_prompt_says_what_is_right():
    """Catches a judge that needs what only tasks have, and one that judges a prompt or an edit it does not know."""
    scene = make_scene(5, "train", 0, World(), "position")
    images, prompts = [image_of(scene)] * 3, [caption(scene), "a red fox", caption(scene)]
    for meta in ({}, {"number": 7}):
        asked = Candidates(images, prompts, references=[(), (), (images[0],)], meta=[meta] * 3)
        assert asked.judged_by(TinyReward()) == [1.0, None, None]


def test_another_share_is_another_version():
    """Catches the best of several images that is taken for made though its judge has another scale now."""
    assert TinyReward().version != TinyReward(strict=1.0).version
