"""One seed, several purposes: streams that know nothing of each other, the same on every machine."""

import math

import torch

from blip3o_core.diffusion.sampler import initial_noise
from blip3o_core.seeds import row_seeds, seed_of, token_uniforms


def normals_of(uniforms: torch.Tensor) -> torch.Tensor:
    """What torch.randn makes on the CPU of the numbers torch.rand gives: Box-Muller in blocks of 16."""
    first, second = (1 - uniforms.view(-1, 16)[:, :8]).log(), uniforms.view(-1, 16)[:, 8:]
    radius, angle = (-2 * first).sqrt(), 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1).flatten()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item())


def test_the_noise_is_not_made_of_the_numbers_that_chose_the_tokens():
    """Catches one generator for both: with equal seeds, the usual case, the noise is then known from the tokens."""
    for seed in (0, 7, 2**64 - 1):
        noise = initial_noise((32, 32, 32), [seed]).flatten()[:720]
        shared = torch.rand(720, generator=torch.Generator().manual_seed(seed))
        assert correlation(normals_of(shared), noise) > 0.999  # how the numbers would hang together
        assert correlation(normals_of(token_uniforms([seed], 729)[0, :720]), noise) < 0.15
        assert correlation(token_uniforms([seed], 720)[0], noise) < 0.15


def test_rows_and_neighbouring_seeds_have_numbers_of_their_own():
    """Catches seed + 1 whose tokens hang together with those of seed, and a row that depends on its neighbours."""
    rows = token_uniforms(row_seeds(2**64 - 2, 4), 720)
    assert max(correlation(rows[a], rows[b]) for a in range(4) for b in range(a)) < 0.15
    assert torch.equal(rows[3:], token_uniforms([1], 720)) and torch.equal(rows[3:], token_uniforms([2**64 + 1], 720))
    assert 0 <= rows.min() and rows.max() < 1 and abs(rows.mean() - 0.5) < 0.03


def test_the_noise_is_comfyuis_own():
    """Catches noise that differs from KSampler's for the same seed."""
    assert torch.equal(
        initial_noise((4, 8, 8), [3])[0], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))[0]
    )


def test_seeds_do_not_depend_on_the_process():
    """Catches Python's own hash, which differs between processes: a resumed run would make other images."""
    assert seed_of(0, 1, "a cat") == 1290489724052142936
    assert len({seed_of(0, update, row) for update in range(50) for row in range(50)}) == 2500
