"""What the diffusion transformer computes from the condition is computed once a run, and nothing else changes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import SanaTransformer2DModel

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.diffusion.sampler import GuidanceSchedule
from blip3o_core.models.sana import KeptCondition

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


def test_a_run_changes_nothing_in_the_network(transformer):
    """Catches a network that keeps the cache of a cancelled run, or loses a forward that another tool put there."""
    wrapped = transformer.transformer_blocks[0].attn2.to_k
    wrapped.forward = own = lambda x: type(wrapped).forward(wrapped, x) * 2
    before = {name: dict(vars(module)) for name, module in transformer.named_modules()}

    def look_and_stop(step, *_):
        for name, module in transformer.named_modules():
            assert vars(module) == before[name], name
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(transformer, callback=look_and_stop)
    assert wrapped.forward is own


def test_a_render_inside_a_callback_is_right_and_so_is_the_outer_one(transformer):
    """Catches a cache that belongs to the network: the inner run gets the outer one's condition, by its shape."""
    alone = [run(transformer, seed=seed) for seed in (0, 5)]
    inner = []
    outer = run(transformer, callback=lambda *_: inner.append(run(transformer, seed=5)))
    assert torch.equal(outer, alone[0]) and len(inner) == STEPS
    assert all(torch.equal(each, alone[1]) for each in inner)


def test_runs_that_overlap_in_threads_are_right(transformer):
    """Catches runs that answer with each other's condition, and a network left changed when the first ends first."""
    seeds = (0, 5, 9)
    alone = [run(transformer, seed=seed) for seed in seeds]
    together = threading.Barrier(len(seeds), timeout=60)

    def one(seed):
        return run(transformer, seed=seed, callback=lambda *_: together.wait())

    with ThreadPoolExecutor(len(seeds)) as threads:
        results = list(threads.map(one, seeds))
    assert all(torch.equal(*pair) for pair in zip(results, alone, strict=True))
    assert torch.equal(run(transformer, seed=5), alone[1])


def test_what_stands_in_for_the_network_gets_no_cache(transformer):
    """Catches an argument that a compiled network, or another one, does not know."""
    assert KeptCondition.serves(transformer)
    assert not KeptCondition.serves(object())
    transformer.transformer_blocks[1]._compiled_call_impl = lambda *_: None
    assert not KeptCondition.serves(transformer)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("beside", [0, 2])
def test_the_walk_over_the_modules_is_diffusers_own(transformer, masked, beside):
    """Catches a forward that differs from diffusers' in a single bit."""
    generator = torch.Generator().manual_seed(3)
    config = transformer.config
    x = torch.randn(2, config.in_channels, 8, 8, generator=generator)
    context = torch.randn(2, 9, config.caption_channels, generator=generator)
    mask = (torch.arange(9) < torch.tensor([[9], [4]])) if masked else None
    inputs = {"timestep": torch.tensor([700.0, 30.0]), "encoder_hidden_states": context}
    inputs["encoder_attention_mask"] = mask
    row = torch.cat([x, *[x.flip(0)] * beside], dim=-1)
    if beside:
        transformer.patch_embed.register_forward_hook(
            lambda embed, arguments, out: (
                torch.cat(
                    [embed.forward(part).unflatten(1, (8, -1)) for part in arguments[0].split(8, dim=-1)], dim=2
                ).flatten(1, 2)
                if arguments[0].shape[-1] > 8
                else None
            )
        )
    with torch.no_grad():
        plain = SanaTransformer2DModel.forward(transformer, row, return_dict=False, **inputs)[0][..., :8]
        kept = KeptCondition()
        for _ in range(2):
            ours = transformer(x, beside=[x.flip(0)] * beside, kept=kept, return_dict=False, **inputs)[0]
            assert torch.equal(ours, plain)
        if beside:
            assert torch.equal(transformer(x, beside=[x.flip(0)] * 2, return_dict=False, **inputs)[0], plain)
