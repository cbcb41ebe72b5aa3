"""Guidance in a part of the schedule: what is computed there and elsewhere, and the option of the commands."""

import math

import pytest
import torch

from blip3o_core.cli.main import main
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.diffusion.reference_conditioning import ReferenceConditioning
from blip3o_core.diffusion.sampler import GuidanceSchedule
from blip3o_core.errors import Blip3oError
from blip3o_core.images.png import read_settings
from blip3o_core.images.reader import open_image
from blip3o_core.pipeline import Pipeline
from tests.support.pictures import made_again, pixels

ROWS, SHAPE = 2, (8, 4, 6)


class Watched:
    """The transformer, keeping the number of rows and the timestep of every call."""

    def __init__(self, transformer):
        self.inner, self.dtype, self.device = transformer, transformer.dtype, transformer.device
        self.config, self.patch_embed, self.rows, self.times = transformer.config, transformer.patch_embed, [], []

    def __call__(self, x, timestep, **kwargs):
        self.rows.append(len(x))
        self.times.append(float(timestep[0]))
        return self.inner(x, timestep=timestep, **kwargs)


@pytest.fixture(scope="module")
def transformer(pipeline):
    return pipeline.transformer


@pytest.fixture(scope="module")
def editing(editor):
    return Pipeline.load(editor)


def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, positive, negative."""
    generator = torch.Generator().manual_seed(0)
    conditions = (torch.randn(ROWS, 9, 40, generator=generator) for _ in range(2))
    return diffusion.initial_noise(SHAPE, list(range(ROWS))), *conditions


def sampled(transformer, schedule, scale=2.0, mask=None, **guidance) -> torch.Tensor:
    noise, *condition = given()
    conditioning = diffusion.Conditioning(*condition, mask)
    return diffusion.sample(transformer, noise, conditioning, schedule, diffusion.GuidanceSchedule(scale, **guidance))


# Five steps stand at 0, 0.2, 0.4, 0.6, 0.8 of the schedule, whatever the shift. The ends are between the steps here.
PARTS = [
    ((0.0, 1.0), {0, 1, 2, 3, 4}),
    ((0.0, 0.5), {0, 1, 2}),
    ((0.3, 0.7), {2, 3}),
    ((0.5, 1.0), {3, 4}),
    ((0.81, 0.99), set()),
]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("interval, guided", PARTS, ids=lambda value: str(value))
def test_the_network_sees_the_null_rows_only_inside(interval, guided, shift, transformer):
    """Catches an interval that saves no work, is read from the wrong end, or ignores the shift of the schedule."""
    watched = Watched(transformer)
    sampled(watched, diffusion.sigmas(5, shift), interval=interval, shift=shift)
    assert watched.rows == [2 * ROWS if step in guided else ROWS for step in range(5)]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("interval, guided", PARTS, ids=lambda value: str(value))
def test_it_is_a_run_by_hand(interval, guided, shift, transformer):
    """Catches the null rows taken for the conditioned ones outside, and guidance in the wrong steps."""
    x, positive, negative = given()
    schedule = diffusion.sigmas(5, shift)
    for step in range(5):
        with torch.no_grad():
            null, conditioned = (
                transformer(
                    x, encoder_hidden_states=c, timestep=(1000 * schedule[step]).expand(ROWS), return_dict=False
                )[0]
                for c in (negative, positive)
            )
        scale = 3.0 if step in guided else 1.0
        x = x + (schedule[step + 1] - schedule[step]) * (null + scale * (conditioned - null))
    made = sampled(transformer, schedule, 3.0, interval=interval, shift=shift)
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-5)


def test_the_whole_interval_is_plain_guidance(transformer):
    """Catches images that change by a bit for everybody, and a first step lost where its sigma rounds above 1."""
    shift = next(part / 100 for part in range(1, 500) if diffusion.sigmas(4, part / 100)[0] > 1)
    for schedule, known_shift in ((diffusion.sigmas(4), 1.0), (diffusion.sigmas(4, shift), shift)):
        watched = Watched(transformer)
        whole = sampled(watched, schedule, interval=(0.0, 1.0), shift=known_shift)
        assert watched.rows == [2 * ROWS] * 4
        assert torch.equal(whole, sampled(transformer, schedule))


def test_the_ends_count(transformer):
    """Catches an open interval. A quarter and a half are exact in binary, so that nothing is rounded here."""
    watched = Watched(transformer)
    sampled(watched, diffusion.sigmas(4), interval=(0.25, 0.5))
    assert watched.rows == [ROWS, 2 * ROWS, 2 * ROWS, ROWS]


def test_parts_are_of_the_whole_schedule_with_denoise_too(transformer):
    """Catches an interval counted in the steps that are left, where ComfyUI counts in the noise that is left."""
    watched = Watched(transformer)
    sampled(watched, diffusion.sigmas(4, denoise=0.5), interval=(0.0, 0.7))
    assert watched.times == [500, 375, 250, 125] and watched.rows == [2 * ROWS, 2 * ROWS, ROWS, ROWS]


def test_without_guidance_an_interval_does_nothing(transformer):
    """Catches null rows computed at guidance 1 because an interval was given."""
    watched = Watched(transformer)
    made = sampled(watched, diffusion.sigmas(3), 1.0, interval=(0.2, 0.8))
    assert watched.rows == [ROWS] * 3 and torch.equal(made, sampled(transformer, diffusion.sigmas(3), 1.0))


def test_masks_are_those_of_the_conditioned_rows(transformer):
    """Catches a mask of twice the rows, or none at all, outside the interval."""
    mask = torch.ones(ROWS, 9, dtype=torch.bool)
    mask[1, 5:] = False
    schedule, half = diffusion.sigmas(4), {"mask": mask, "interval": (0.0, 0.3)}
    made = sampled(transformer, schedule, **half)
    noise, *condition = given()
    conditioning = diffusion.Conditioning(*condition, mask)
    first = diffusion.sample(transformer, noise, conditioning, schedule[:3], diffusion.GuidanceSchedule(2.0))
    rest = diffusion.sample(transformer, first, conditioning, schedule[2:], diffusion.GuidanceSchedule(1.0))
    torch.testing.assert_close(made, rest, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(made, sampled(transformer, schedule, interval=(0.0, 0.3)), atol=1e-3)


def edited(pipeline, picture, schedule, noise=None, guidance=2.0, **more) -> tuple[torch.Tensor, list[int]]:
    """Latents of an edit with the reference in every use, of two rows, and how many rows each call had.

    `more`: `interval` of the guidance, and `change_mask`, which is expanded to the size of the latent.
    """
    [latents] = pipeline.references([picture]).latents
    source = latents * pipeline.autoencoder.config.scaling_factor
    references = ReferenceConditioning([source], pipeline.reference_mode, connector=pipeline._reference_connector)
    conditioning = diffusion.Conditioning(*given()[1:], references=references)
    shape, inpaint = (8, *source.shape[-2:]), None
    noise = diffusion.initial_noise(shape, list(range(ROWS))) if noise is None else noise
    watched = Watched(pipeline.transformer)
    if "change_mask" in more:
        inpaint = diffusion.Inpaint(source, more.pop("change_mask").expand(1, 1, *shape[1:]))
    made = diffusion.sample(watched, noise, conditioning, schedule, GuidanceSchedule(guidance, **more), inpaint)
    return made, watched.rows


def test_references_in_every_use(editing, place):
    """Catches conditioned rows outside the interval that count as null rows, which see no reference."""
    picture, schedule = open_image(place / "a.png"), diffusion.sigmas(4)
    made, rows = edited(editing, picture, schedule, interval=(0.0, 0.3))
    assert rows == [2 * ROWS, 2 * ROWS, ROWS, ROWS]
    first, _ = edited(editing, picture, schedule[:3])
    rest, _ = edited(editing, picture, schedule[2:], first, 1.0)
    torch.testing.assert_close(made, rest, rtol=1e-5, atol=1e-6)


def test_what_stays_of_an_image_stays(editing, place):
    """Catches a kept part that guidance moved, or that is not put back where there is none."""
    picture = open_image(place / "a.png")
    change_mask = torch.zeros(1, 1, 1, 1)
    kept, rows = edited(editing, picture, diffusion.sigmas(4), interval=(0.3, 0.6), change_mask=change_mask)
    assert rows == [ROWS, ROWS, 2 * ROWS, ROWS]
    scaled = editing.references([picture]).latents[0] * editing.autoencoder.config.scaling_factor
    torch.testing.assert_close(kept, scaled.expand_as(kept), rtol=1e-4, atol=1e-5)


BAD = [(0.8, 0.2), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), (0.0, math.nan), (0.5,), (0.0, 0.5, 1.0)]


@pytest.mark.parametrize("interval", BAD, ids=str)
def test_impossible_intervals_are_refused(interval):
    """Catches an interval turned round that switches guidance off without a word."""
    with pytest.raises(Blip3oError, match="guidance interval is .*0.2, 0.8"):
        diffusion.GuidanceSchedule(interval=interval)


@pytest.fixture
def generate(tiny):
    def run(*arguments) -> int:
        words = [f"--checkpoint={tiny}", "--steps=3", "--device=cpu", "--size=16x24", "--guidance=9", "--prompt=a"]
        return main(["generate", *words, *map(str, arguments)])

    return run


@pytest.mark.slow
def test_generate_takes_stores_and_repeats_it(generate, tmp_path, tiny):
    """Catches an option that is ignored, or not stored, so that the command in the image file makes another one."""
    made = {}
    for interval in ("0-1", "0-0.5", "0.5-1", "1e-05-0.5"):
        out = tmp_path / f"{interval}.png"
        assert generate(f"--guidance-interval={interval}", f"--out={out}") == 0
        made[interval] = pixels(out)
        assert torch.equal(made_again(out, tiny, {}), made[interval])
    assert read_settings(tmp_path / "0-0.5.png")["guidance_interval"] == "0.0-0.5"
    assert len({picture.numpy().tobytes() for picture in made.values()}) == len(made)


def test_the_whole_interval_is_not_stored(generate, tmp_path):
    """Catches images of an earlier version that are all made again, because their settings seem to differ."""
    for name, words in {"without": [], "with": ["--guidance-interval", "0.0-1"]}.items():
        assert generate(*words, f"--out={tmp_path / name}.png") == 0
        assert "interval" not in str(read_settings(tmp_path / f"{name}.png"))
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_edit_takes_stores_and_repeats_it(edit, place, editor):
    """Catches the option of one command forgotten in the other."""
    words = ("--image={here}/a.png", "--instruction=red", "--guidance=9")
    assert edit(*words, "--out={here}/plain.png") == 0
    assert edit(*words, "--out={here}/part.png", "--guidance-interval=0.4-0.9") == 0
    part = pixels(place / "part.png")
    assert read_settings(place / "part.png")["guidance_interval"] == "0.4-0.9"
    assert "interval" not in str(read_settings(place / "plain.png"))
    assert not torch.equal(part, pixels(place / "plain.png"))
    assert torch.equal(made_again(place / "part.png", editor, {"IMAGE1": place / "a.png"}), part)


@pytest.mark.parametrize("text", ["0.5", "a-b", "0.1-0.2-0.3", "0.8-0.2", "0-2", "-0.1-1", "nan-1", ""])
def test_mistakes_end_with_a_reason_and_no_image(text, generate, tmp_path, capsys):
    """Catches a traceback, or an image made without the guidance that was asked for."""
    assert generate(f"--guidance-interval={text}", f"--out={tmp_path / 'a.png'}") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and repr(text) in said.err and said.out == ""
    assert not (tmp_path / "a.png").exists()
