"""What reinforcement learning of the diffusion minimises, on numbers made by hand."""

import pytest
import torch

from blip3o_core.training.diffusion_rl.objective import advantages, clipped_ratio_loss, nft_loss, optimality
from blip3o_core.training.diffusion_rl.step import sde_step
from blip3o_core.training.diffusion_rl.windows import steps_in_window


def test_advantages_compare_the_images_of_one_prompt():
    """Catches an easy prompt whose images are all 'good', deviations of another kind, and outliers without a limit."""
    rewards = torch.tensor([[0.0, 1.0, 2.0, 3.0], [10.0, 10.0, 10.0, 10.0]])
    own = advantages(rewards, 5.0)
    assert torch.allclose(own[0], torch.tensor([-1.3416, -0.4472, 0.4472, 1.3416]), atol=1e-3)
    assert torch.equal(own[1], torch.zeros(4))  # equal images teach nothing
    shared = advantages(rewards, 5.0, torch.tensor(3.0))
    assert torch.allclose(shared[0], torch.tensor([-0.5, -1 / 6, 1 / 6, 0.5]), atol=1e-3)
    alone = torch.zeros(1, 100)
    alone[0, 0] = 1
    assert advantages(alone, 5.0).max() == 5 and advantages(alone, 100.0).max() > 9


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_gradient_makes_good_steps_likelier_and_bad_ones_rarer(advantage):
    """Catches a wrong sign: a run that learns the opposite."""
    x, noise = torch.zeros(1, 4), torch.ones(1, 4)
    v = torch.zeros(1, 4, requires_grad=True)
    made = sde_step(v.detach(), x, 0.6, 0.4, 0.7, noise=noise)
    now = sde_step(v, x, 0.6, 0.4, 0.7, made.x_next)
    loss, _ = clipped_ratio_loss(now.log_prob, made.log_prob, torch.tensor([advantage]), 0.1)
    assert loss.item() == -advantage  # the ratio is 1
    loss.sum().backward()
    with torch.no_grad():
        moved = sde_step(v - 0.1 * v.grad, x, 0.6, 0.4, 0.7, made.x_next)
    assert (moved.log_prob > made.log_prob) == (advantage > 0)


def test_what_has_moved_far_enough_has_no_gradient():
    """Catches clipping on the wrong side, which would stop what was to be undone."""
    log_prob = torch.tensor([0.3, -0.3, 0.3, -0.3], requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss, clipped = clipped_ratio_loss(log_prob, torch.zeros(4), advantage, 0.1)
    assert clipped.tolist() == [True, False, False, True]
    loss.sum().backward()
    assert [bool(one) for one in log_prob.grad != 0] == [False, True, True, False]
    assert loss[0].item() == pytest.approx(-1.1) and loss[3].item() == pytest.approx(0.9)


def test_windows_hold_the_steps_that_they_say():
    """Catches steps that are never learnt from, a window over the end, and one that a resumed run does not have."""
    chosen = lambda kind, update, seed=0: steps_in_window(  # noqa: E731
        kind, 3, 2, 5, update, torch.Generator().manual_seed(seed)
    )
    assert chosen("all", 7) == [0, 1, 2, 3, 4]
    assert chosen("first", 7) == [0, 1, 2]
    assert [chosen("sliding", update)[0] for update in range(8)] == [0, 0, 1, 1, 2, 2, 0, 0]
    assert chosen("sliding", 5) == [2, 3, 4]
    drawn = [tuple(chosen("random", 0, seed)) for seed in range(40)]
    assert all(len(set(one)) == 3 and sorted(one) == list(one) for one in drawn)
    assert {step for one in drawn for step in one} == {0, 1, 2, 3, 4} and drawn[3] == tuple(chosen("random", 9, 3))
    assert steps_in_window("first", 9, 1, 4, 0, torch.Generator()) == [0, 1, 2, 3]


@pytest.mark.parametrize("r, towards", [(1.0, True), (0.0, False)])
def test_nft_moves_towards_good_images_and_away_from_bad_ones(r, towards):
    """Catches a velocity of the wrong sign, or r and 1 - r in each other's place."""
    generator = torch.Generator().manual_seed(1)
    x0, noise, off = (torch.randn(1, 6, generator=generator) for _ in range(3))
    x, old = 0.5 * x0 + 0.5 * noise, noise - x0 + 0.3 * off
    v = old.clone().requires_grad_(True)
    nft_loss(v, old, (x0, x, 0.5), torch.tensor([r]), 1.0).sum().backward()
    to_image = (noise - x0) - old  # the velocity of this very image
    assert (float((-v.grad * to_image).sum()) > 0) == towards


def test_nft_stays_where_images_are_neither_good_nor_bad():
    """Catches a drift without any reward: at r = 0.5 the old velocity is the best."""
    x0, x, old = torch.randn(2, 6), torch.randn(2, 6), torch.randn(2, 6)
    v = old.clone().requires_grad_(True)
    nft_loss(v, old, (x0, x, 0.7), torch.tensor([0.5, 0.5]), 0.4).sum().backward()
    assert torch.allclose(v.grad, torch.zeros_like(v), atol=1e-6)


def test_r_is_one_half_for_the_mean_of_a_group():
    """Catches advantages that reach the loss with another scale."""
    found = optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0]), 5.0)
    assert found.tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]
