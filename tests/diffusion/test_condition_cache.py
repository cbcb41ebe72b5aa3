"""What the diffusion transformer computes from the condition is computed once a run, and nothing else changes."""

import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.diffusion.condition_cache import cache_condition_projections
from blip3o_core.diffusion.sampler import GuidanceSchedule

STEPS = 3


@pytest.fixture
def transformer():
    return open_checkpoint(BUNDLED).load_transformer(torch.float32)


def conditions(transformer, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    width = transformer.config.caption_channels
    return [torch.randn(1, 9, width, generator=generator) for _ in range(2)]


def run(transformer, interval=diffusion.WHOLE, seed: int = 0, callback=None):
    noise = diffusion.initial_noise((transformer.config.in_channels, 8, 8), [1, 2])
    conditioning, guidance = diffusion.Conditioning(*conditions(transformer, seed)), GuidanceSchedule(2.0, interval)
    return diffusion.sample(transformer, noise, conditioning, diffusion.sigmas(STEPS), guidance, callback=callback)


def by_hand(transformer, guided):
    """Every step without the cache; `guided`: steps with guidance."""
    x, schedule = diffusion.initial_noise((transformer.config.in_channels, 8, 8), [1, 2]), diffusion.sigmas(STEPS)
    positive, null = (each.expand(2, -1, -1) for each in conditions(transformer))
    with torch.no_grad():
        for step in range(STEPS):
            time = (schedule[step] * 1000).expand(4)
            context = torch.cat([null, positive])
            both = transformer(
                torch.cat([x, x]), encoder_hidden_states=context, timestep=time, return_dict=False
            )[0]  # fmt: skip
            one, two = both.chunk(2)
            x = x + (schedule[step + 1] - schedule[step]) * (one + (2.0 if step in guided else 1.0) * (two - one))
    return x


def test_every_step_is_as_without_the_cache(transformer):
    """Catches keys of another condition, or of the guided rows where none are guided."""
    assert torch.allclose(run(transformer), by_hand(transformer, (0, 1, 2)), atol=1e-5)
    # Without guidance the whole step is of other shapes, and rounded otherwise.
    assert torch.allclose(run(transformer, interval=(0.2, 0.5)), by_hand(transformer, (1,)), atol=1e-4)


def test_the_condition_is_projected_once_a_run(transformer):
    """Catches work that is repeated in every step, and keys that outlive their run."""
    calls = []
    for name in ("caption_projection", "transformer_blocks.0.attn2.to_k", "transformer_blocks.1.attn2.to_v"):
        module = transformer.get_submodule(name)
        inner = module.linear_1 if name == "caption_projection" else module
        original = type(inner).forward
        inner.forward = lambda x, inner=inner, name=name, original=original: calls.append(name) or original(inner, x)
    first = run(transformer)
    assert len(calls) == 3
    second = run(transformer, seed=5)
    assert len(calls) == 6 and not torch.allclose(first, second)


def test_a_run_that_is_cancelled_leaves_nothing(transformer):
    """Catches a network that keeps the cache of a cancelled run, or loses a forward that another tool put there."""
    wrapped = transformer.transformer_blocks[0].attn2.to_k
    wrapped.forward = own = lambda x: type(wrapped).forward(wrapped, x) * 2

    def stop(step, *_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(transformer, callback=stop)
    assert wrapped.forward is own
    assert "forward" not in vars(transformer.caption_norm) and "forward" not in vars(transformer.caption_projection)


def test_references_and_their_strengths_are_not_mixed_up(transformer):
    """Catches conditions with and without reference tokens taken for each other: they differ in length alone."""
    x = torch.randn(1, 7, transformer.config.caption_channels)
    with torch.no_grad(), cache_condition_projections(transformer):
        short, long = (transformer.caption_projection(x[:, :n]) for n in (5, 7))
        assert short.shape[1] == 5 and long.shape[1] == 7
        assert torch.equal(transformer.caption_projection(x[:, :5]), short)
