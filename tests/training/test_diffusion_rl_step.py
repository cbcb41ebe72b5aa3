"""A step of the diffusion with a probability, on a flow in two dimensions whose velocity is known exactly."""

import math

import pytest
import torch

from blip3o_core.diffusion.sampler import sigmas
from blip3o_core.training.diffusion_rl.step import gaussian_kl, sde_step, step_std

MEAN, SPREAD = torch.tensor([0.8, -0.4]), 0.5  # of the data


def velocity(x: torch.Tensor, s: float) -> torch.Tensor:
    """E[noise - x0 | x] for data that is Gaussian around MEAN."""
    variance = ((1 - s) * SPREAD) ** 2 + s**2
    off = (x - (1 - s) * MEAN) / variance
    return s * off - (MEAN + (1 - s) * SPREAD**2 * off)


def sampled(eta: float, steps: int = 60, count: int = 20_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 2, generator=generator)
    schedule = sigmas(steps).tolist()
    for s, s_next in zip(schedule[:-1], schedule[1:], strict=True):
        noise = torch.randn(count, 2, generator=generator)
        x = sde_step(velocity(x, s), x, s, s_next, eta, noise=noise).x_next
    return x


def test_the_sde_samples_what_the_ode_samples():
    """Catches a wrong drift or noise level: images of another distribution than those of inference."""
    ode, sde = sampled(0.0), sampled(0.7)
    error = SPREAD / math.sqrt(len(sde))
    for found in (ode, sde):
        assert torch.allclose(found.mean(0), MEAN, atol=5 * error + 0.01)
        assert torch.allclose(found.std(0), torch.full((2,), SPREAD), atol=5 * error + 0.015)
    assert not torch.allclose(ode, sde, atol=0.1)  # the same noise at the start, other images


def test_without_noise_a_step_is_the_samplers():
    """Catches a step in the wrong direction, and a last step whose noise would stay in the image."""
    x, v = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for s, s_next, eta in ((1.0, 0.8, 0.0), (0.2, 0.0, 0.7)):
        step = sde_step(v, x, s, s_next, eta, noise=torch.randn(2, 3, 4))
        assert torch.equal(step.x_next, x + (s_next - s) * v)
        assert step.log_prob is None and step.std == 0


@pytest.mark.parametrize("s, s_next", [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25)])
def test_a_replayed_step_has_the_probability_of_the_step_and_of_a_normal_distribution(s, s_next):
    """Catches a ratio that is not 1 before the first update, and a density without its constant or with a wrong one."""
    generator = torch.Generator().manual_seed(0)
    x, v, noise = (torch.randn(5, 4, 3, 3, generator=generator) for _ in range(3))
    made = sde_step(v, x, s, s_next, 0.7, noise=noise)
    again = sde_step(v, x, s, s_next, 0.7, made.x_next)
    assert torch.equal(again.log_prob, made.log_prob) and torch.equal(again.mean, made.mean)
    assert bool(((again.log_prob - made.log_prob).exp() == 1).all())
    wanted = torch.distributions.Normal(made.mean, made.std).log_prob(made.x_next).flatten(1).mean(1)
    assert torch.allclose(made.log_prob, wanted, atol=1e-6)
    assert torch.allclose((made.x_next - made.mean) / made.std, noise, atol=1e-5)


def test_all_of_a_step_is_float32():
    """Catches probabilities of rounded numbers, which a network in bfloat16 would give."""
    x, v = torch.randn(2, 8).bfloat16(), torch.randn(2, 8).bfloat16()
    step = sde_step(v, x, 0.6, 0.4, 0.7, noise=torch.randn(2, 8))
    assert {step.x_next.dtype, step.mean.dtype, step.log_prob.dtype} == {torch.float32}


def test_the_first_step_takes_the_noise_of_its_end():
    """Catches infinite noise at sigma 1, where the formula divides by zero."""
    assert step_std(1.0, 0.9, 0.7) == pytest.approx(0.7 * math.sqrt(0.9 / 0.1) * math.sqrt(0.1))
    assert step_std(0.5, 0.4, 0.7) == pytest.approx(0.7 * 1 * math.sqrt(0.1))
    assert step_std(0.5, 0.0, 0.7) == step_std(0.5, 0.4, 0.0) == 0


def test_the_kl_is_that_of_two_normal_distributions():
    """Catches a distance that is not zero for equal models, or has another scale than nats."""
    mean, other = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    assert torch.equal(gaussian_kl(mean, mean, 0.3), torch.zeros(3))
    one, two = (torch.distributions.Normal(each, 0.3) for each in (mean, other))
    wanted = torch.distributions.kl_divergence(one, two).flatten(1).mean(1)
    assert torch.allclose(gaussian_kl(mean, other, 0.3), wanted)
