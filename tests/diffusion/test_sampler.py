"""The diffusion loop against diffusers' own scheduler, and what a row, a mask and a guidance of 1 mean."""

import pytest
import torch

from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.errors import Blip3oError


def scheduler(steps: int, shift: float):
    """diffusers' flow matching Euler, set up as the authors do."""
    import numpy
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler(shift=shift)
    made.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps))
    return made


@pytest.fixture(scope="module")
def transformer(pipeline):
    return pipeline.transformer


class Watched:
    """The transformer, keeping the arguments of every call."""

    def __init__(self, transformer):
        self.transformer, self.dtype, self.device, self.calls = transformer, transformer.dtype, transformer.device, []

    def __call__(self, x, **kwargs):
        self.calls.append((x, kwargs))
        return self.transformer(x, **kwargs)


def conditions(batch: int, tokens: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Positive and negative."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, tokens, 40, generator=generator) for _ in range(2))


def sample(transformer, noise, condition, schedule, guidance=2.0, mask=None, callback=None) -> torch.Tensor:
    conditioning = diffusion.Conditioning(*condition, mask)
    return diffusion.sample(
        transformer, noise, conditioning, schedule, diffusion.GuidanceSchedule(guidance), callback=callback
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 25, 30, 100])
def test_sigmas_are_those_of_diffusers(steps, shift):
    """Catches a schedule that ends at 0 instead of 1/N, is shifted twice, or lacks the last 0."""
    ours = diffusion.sigmas(steps, shift)
    assert ours.shape == (steps + 1,) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, scheduler(steps, shift).sigmas.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("denoise", [1.0, 0.9, 0.5, 0.33, 0.1])
def test_denoise_takes_the_end_of_a_longer_schedule(denoise):
    """Catches image-to-image that starts from pure noise, or makes another number of steps than asked."""
    for steps in (1, 4, 30):
        whole = diffusion.sigmas(int(steps / denoise), shift=3.0)
        part = diffusion.sigmas(steps, shift=3.0, denoise=denoise)
        assert torch.equal(part, whole[-steps - 1 :])
        assert part[-1] == 0 and (part[:-1] > part[1:]).all() and part[0] <= 1


@pytest.mark.parametrize(
    "steps, kwargs, shown",
    [
        (0, {}, "0"), (-3, {}, "-3"), (4, {"denoise": 0.0}, "0.0"), (4, {"denoise": 1.5}, "1.5"),
        (4, {"denoise": -1}, "-1"), (4, {"denoise": float("nan")}, "nan"), (4, {"shift": 0.0}, "0.0"),
        (4, {"shift": float("nan")}, "nan"),
    ],
)  # fmt: skip
def test_impossible_schedules_are_refused(steps, kwargs, shown):
    """Catches a division by zero, or pure noise returned as an image after no step at all."""
    with pytest.raises(Blip3oError, match=shown):
        diffusion.sigmas(steps, **kwargs)


@pytest.mark.parametrize("guidance", [-1.0, float("nan"), float("inf")])
def test_impossible_guidance_is_refused(guidance, transformer):
    """Catches a black image, blamed on the dtype, for a guidance that is NaN or infinite."""
    with pytest.raises(Blip3oError, match=f"guidance is {guidance}"):
        noise = diffusion.initial_noise((8, 4, 4), [0])
        sample(transformer, noise, conditions(1), diffusion.sigmas(1), guidance)


@pytest.mark.parametrize("guidance, shift, steps", [(2.0, 1.0, 5), (7.5, 3.0, 3), (1.0, 1.0, 4), (0.0, 1.0, 2)])
@pytest.mark.parametrize("height, width", [(4, 4), (3, 7)])
def test_sampling_is_diffusers_loop(guidance, shift, steps, height, width, transformer):
    """Catches the halves of guidance swapped, a wrong timestep scale or sign, and latents that must be square."""
    noise = diffusion.initial_noise((8, height, width), [0, 1])
    positive, negative = conditions(2)
    ours = sample(transformer, noise, (positive, negative), diffusion.sigmas(steps, shift), guidance)
    made, x = scheduler(steps, shift), noise
    for t in made.timesteps:
        with torch.no_grad():
            null, conditioned = (
                transformer(x, encoder_hidden_states=c, timestep=t.expand(2), return_dict=False)[0]
                for c in (negative, positive)
            )
        x = made.step(null + guidance * (conditioned - null), t, x, return_dict=False)[0]
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_a_row_is_the_single_run(transformer):
    """Catches rows that share noise or influence each other: row k must be what its seed draws alone."""
    seeds = [7, 2**63, 2**64 - 1]
    together = diffusion.initial_noise((8, 4, 6), seeds)
    positive, negative = conditions(3)
    latents = sample(transformer, together, (positive, negative), diffusion.sigmas(3))
    for k, seed in enumerate(seeds):
        alone = diffusion.initial_noise((8, 4, 6), [seed])
        assert torch.equal(alone[0], together[k])
        row = slice(k, k + 1)
        single = sample(transformer, alone, (positive[row], negative[row]), diffusion.sigmas(3))
        torch.testing.assert_close(latents[row], single, rtol=1e-4, atol=1e-5)
    assert not torch.equal(together[0], together[1])


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone():
    """Catches scaled noise, and a seed that reseeds everybody else in the process."""
    before = torch.random.get_rng_state()
    noise = diffusion.initial_noise((16, 64, 64), [0, 1])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert noise.dtype == torch.float32 and noise.device.type == "cpu"
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("guidance, rows", [(1.0, 2), (2.0, 4)])
def test_the_null_half_is_computed_only_for_guidance(guidance, rows, transformer):
    """Catches twice the work at guidance 1, and a step computed more than once."""
    watched = Watched(transformer)
    schedule = diffusion.sigmas(3)
    sample(watched, diffusion.initial_noise((8, 4, 4), [0, 1]), conditions(2), schedule, guidance)
    assert [len(x) for x, _ in watched.calls] == [rows] * 3
    for (_, kwargs), sigma in zip(watched.calls, schedule[:-1], strict=True):
        torch.testing.assert_close(kwargs["timestep"], (1000 * sigma).expand(rows))


def test_the_null_condition_does_not_matter_at_guidance_one(transformer):
    """Catches guidance 1 that still leans on the null condition."""
    noise, (positive, negative) = diffusion.initial_noise((8, 4, 4), [0]), conditions(1)
    first, second = (
        sample(transformer, noise, (positive, null), diffusion.sigmas(2), 1.0) for null in (negative, positive)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_masked_condition_is_the_shorter_one(guidance, transformer):
    """Catches cross-attention to the padding of a row that ended early."""
    noise, (positive, negative) = diffusion.initial_noise((8, 4, 4), [0, 1]), conditions(2)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    positive[1, 5:] = 100.0
    both = sample(transformer, noise, (positive, negative), diffusion.sigmas(2), guidance, mask)
    for k, length in ((0, 9), (1, 5)):
        row = slice(k, k + 1)
        shorter = positive[row, :length], negative[row, :length]
        short = sample(transformer, noise[row], shorter, diffusion.sigmas(2), guidance)
        torch.testing.assert_close(both[row], short, rtol=1e-4, atol=1e-5)


def test_the_callback_sees_each_estimate_and_may_cancel(transformer):
    """Catches previews of the noisy latent, and a cancel that is swallowed."""
    seen, args = [], (transformer, diffusion.initial_noise((8, 4, 4), [0]), conditions(1), diffusion.sigmas(4))
    final = sample(*args, callback=lambda *step: seen.append(step))
    assert [(step, total) for step, total, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    torch.testing.assert_close(seen[-1][2], final, rtol=1e-5, atol=1e-5)

    def cancel(step, total, estimate):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample(*args, callback=cancel)
    assert torch.equal(sample(*args), final)


def test_the_latent_stays_float32_in_half_precision(checkpoint):
    """Catches rounding that adds up over the steps: only the network computes in bf16."""
    watched = Watched(checkpoint.load_transformer(torch.bfloat16))
    noise = diffusion.initial_noise((8, 4, 4), [0])
    latents = sample(watched, noise, conditions(1), diffusion.sigmas(2))
    assert latents.dtype == torch.float32
    assert not torch.equal(latents, latents.bfloat16().float())
    assert {x.dtype for x, _ in watched.calls} == {torch.bfloat16}


def test_values_that_are_not_finite_are_an_error(transformer):
    """Catches a black image where the transformer overflowed."""

    class Overflowing(Watched):
        def __call__(self, x, **kwargs):
            return (torch.full_like(x, float("inf")),)

    with pytest.raises(Blip3oError, match="float32.*NaN or infinite"):
        noise = diffusion.initial_noise((8, 4, 4), [0])
        sample(Overflowing(transformer), noise, conditions(1), diffusion.sigmas(2))


@pytest.mark.parametrize("interval, networks", [((0.0, 1.0), 1), ((0.0, 0.3), 2)])
def test_a_recorded_network_computes_the_same(interval, networks, transformer, monkeypatch):
    """Catches a noise, a time or a condition of the recording in later steps. Here the graph is the work itself."""
    recorded = []

    def record(work, device):
        work()
        recorded.append(work)
        return work

    noise, conditioning = diffusion.initial_noise((8, 4, 4), [0]), diffusion.Conditioning(*conditions(1))
    arguments = (transformer, noise, conditioning, diffusion.sigmas(4), diffusion.GuidanceSchedule(2.0, interval))
    expected = diffusion.sample(*arguments)
    monkeypatch.setattr(diffusion, "try_capture", record)
    monkeypatch.setattr(diffusion._Network, "_recording_pays", lambda self, x: self._calls > 1)
    assert torch.equal(diffusion.sample(*arguments), expected)
    assert len(recorded) == networks


def test_one_row_of_tokens_serves_several_seeds(pipeline):
    """Catches conditions regrouped across rows, which gives two wrong images without a word."""
    tokens = pipeline.generate_tokens(["a red cube"], [1])
    both = pipeline.render(tokens, [3, 4], steps=3)
    for row, seed in zip(both, [3, 4], strict=True):
        assert (row - pipeline.render(tokens, [seed], steps=3)[0]).abs().max() < 1e-4


@pytest.mark.parametrize("rows, seeds", [(2, [1]), (3, [1, 2]), (2, [1, 2, 3])])
def test_rows_without_their_own_noise_are_refused(rows, seeds, pipeline):
    """Catches images left out, or mixed, when there are not as many noise seeds as rows of tokens."""
    tokens = pipeline.generate_tokens(["a"] * rows, list(range(rows)))
    with pytest.raises(Blip3oError, match=f"{rows} rows of conditioning and {len(seeds)} rows of noise"):
        pipeline.render(tokens, seeds, steps=1)
