"""An edit keeps what it should, and doing nothing is not the best edit."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.consistency import ConsistencyReward, similarity
from blip3o_core.rewards.load import load_rewards

SIDE = 128
MASK = torch.zeros(SIDE, SIDE)
MASK[40:90, 40:90] = 1


def image_of(seed):
    """Soft colours with sharp edges, as a photograph has both."""
    noise = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    soft = functional.interpolate(noise, (SIDE, SIDE), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
    soft[::16], soft[:, 8::16] = 0.9, 0.1
    return soft


def edited(image):
    return torch.where(MASK[..., None] > 0, 1 - image, image)


def noisy(image, sigma=0.02):
    return (image + sigma * torch.randn(image.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)


def value(image, reference, mask=MASK, **options):
    return ConsistencyReward(**options)([image], ["a prompt"], [[reference]], [mask], [{}])[0]


def test_the_order_of_edits():
    """Catches a reward that is highest for doing nothing, or that prefers a damaged image to a clean one."""
    before = image_of(1)
    perfect = value(edited(before), before)
    noise = value(noisy(edited(before)), before)
    shifted = value(edited(before).roll(6, 1), before)
    other = value(image_of(2), before)
    assert perfect == 1 and perfect > noise > shifted > other >= 0, (perfect, noise, shifted, other)
    assert noise > 0.8 and shifted < 0.8 and other < 0.25
    assert value(before, before) == 0
    assert value(noisy(before), before) < 0.05  # what an autoencoder does is no edit


def test_structure_is_that_of_scikit_image():
    """Catches a structural similarity of our own that is another number than the known one."""
    metrics = pytest.importorskip("skimage.metrics")
    one, other = image_of(1), noisy(image_of(1), 0.1)
    whole, full = metrics.structural_similarity(
        one.numpy().astype(np.float64), other.numpy().astype(np.float64), channel_axis=-1, data_range=1, full=True
    )
    found = similarity(one, other)
    assert torch.allclose(found, torch.from_numpy(full[3:-3, 3:-3]).mean(-1).float(), atol=1e-4)
    assert float(found.mean()) == pytest.approx(whole, abs=1e-5)


def test_sizes_may_differ():
    """Catches a reference of its own size compared pixel by pixel with another one."""
    before = image_of(1)
    large = functional.interpolate(before.permute(2, 0, 1)[None], (256, 256), mode="nearest")[0].permute(1, 2, 0)
    mask = functional.interpolate(MASK[None, None], (64, 64))[0, 0]
    assert value(edited(before), large, mask) > 0.9
    assert value(torch.rand(5, 4, 3), torch.zeros(9, 9, 3), torch.eye(7)) is not None


def test_what_cannot_be_judged():
    """Catches a number where there is nothing to compare, and a gate where nothing may change."""
    before = image_of(1)
    reward = ConsistencyReward()
    assert reward([before], ["a"], [[]], [MASK], [{}]) == [None]
    assert value(edited(before), before, torch.ones(SIDE, SIDE)) is None
    assert value(before, before, torch.zeros(SIDE, SIDE)) == 1
    assert value(edited(before), before, torch.zeros(SIDE, SIDE)) < 0.95
    assert value(edited(before), before, None) is None
    assert value(before, before, None, whole=True) == 1 > value(edited(before), before, None, whole=True) > 0.5
    assert reward([edited(before)], ["a"], [[before, image_of(2)]], [MASK], [{}]) == [1]


def test_options_are_checked():
    """Catches a limit that divides by zero, and an option without effect on the version."""
    for options, words in (
        ({"change": 0}, "change is 0. Give a number above 0"),
        ({"tolerance": "much"}, "tolerance is 'much'"),
        ({"whole": 1}, "whole is 1"),
    ):
        with pytest.raises(Blip3oError) as error:
            load_rewards([{"name": "consistency", "options": options}])
        assert words in str(error.value)
    assert ConsistencyReward().version != ConsistencyReward(whole=True).version != ConsistencyReward(0.1).version
