"""The evaluation of the tiny world: it counts exactly, each source is what it says, batches change nothing.

Tests of the counting replace the model's images by true ones; the others use a random model.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.images.png import read_settings
from blip3o_core.images.preprocess import to_images, tokenizer_input
from blip3o_core.models import autoencoder
from blip3o_core.models.image_tokenizer import encode_images
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny import edit_evaluation, evaluation, evaluation_report, make_scene, rasterize, spec_of
from blip3o_core.tiny.evaluation import (
    AUTOENCODER,
    CODES,
    SOURCES,
    TRUE_CODES,
    Settings,
    evaluate,
    failure_kind,
    make_prompts,
)
from blip3o_core.tiny.judge.corruptions import CORRUPTIONS, corrupt
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.scenes.captions import phrasings
from blip3o_core.tiny.scenes.world import CATEGORIES, DEFAULT_BACKGROUND, LOW_CONTRAST, split_of

FEW = Settings(count=8, seeds=1, steps=2, batch=8)


@pytest.fixture
def replace_images(monkeypatch):
    """`replace_images(image_of)`: judge `image_of(prompt, seed)` instead of the model's images."""

    def use(image_of):
        def make_images(pipeline, source, prompts, seeds, settings, stopwatch):
            with stopwatch.part("tokens"):
                return np.stack([image_of(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)])

        monkeypatch.setattr(evaluation, "make_images", make_images)

    return use


def blank(prompt) -> np.ndarray:
    return np.full_like(rasterize(prompt.scene), 205)


def test_true_images_are_all_right(pipeline, replace_images):
    """Catches verdicts that meet the wrong prompt, and images that are spoilt on their way to the judge."""
    replace_images(lambda prompt, seed: rasterize(prompt.scene))
    result = evaluate(pipeline, Settings(count=80, seeds=2, batch=7))
    assert result.mean == 1 and set(result.strict.values()) == set(result.layout.values()) == {1.0}
    assert result.failures() == {} and result.means == (1, 1) and result.spread == 0


def test_a_category_that_fails_costs_the_mean_its_eighth(pipeline, replace_images):
    """Catches a mean over images, not over categories: 20 prompts are three of some and two of others."""
    replace_images(lambda prompt, seed: blank(prompt) if prompt.category == "colors" else rasterize(prompt.scene))
    result = evaluate(pipeline, Settings(count=20, seeds=1))
    assert result.strict == {name: float(name != "colors") for name in CATEGORIES}
    assert result.layout == result.strict
    assert result.mean == 7 / 8 and result.weakest == "colors" and result.spread is None
    assert result.failures()["too few objects"] == 3 / 20
    assert result.failures("colors")["too few objects"] == 1 and result.failures("size") == {}


def test_layout_forgives_a_shape(pipeline, replace_images):
    """Catches the two shares exchanged or taken from one verdict."""
    replace_images(lambda prompt, seed: rasterize(corrupt(prompt.scene, "wrong shape", seed) or prompt.scene))
    result = evaluate(pipeline, Settings(count=40, seeds=1))
    assert result.mean < 0.5 and np.mean(list(result.layout.values())) > 0.95


def test_the_spread_is_over_sampling_seeds(pipeline, replace_images):
    """Catches seeds that draw the same images again, share a seed with another run, or are averaged away."""
    seen = []

    def image(prompt, seed):
        seen.append(seed)
        wrong = seed >= evaluation.SEED_STRIDE and prompt.category == "size"
        return blank(prompt) if wrong else rasterize(prompt.scene)

    replace_images(image)
    result = evaluate(pipeline, Settings(count=16, seeds=3, batch=5))
    assert result.means == (1, 7 / 8, 7 / 8) and result.strict["size"] == pytest.approx(1 / 3)
    assert result.spread == pytest.approx(np.std([1, 7 / 8, 7 / 8], ddof=1))
    assert len(set(seen)) == 48


def test_prompts_are_held_back_and_evenly_spread():
    """Catches training scenes among the prompts, a category that is asked more often, and captions that repeat."""
    asked = make_prompts(Settings(count=160))
    assert [prompt.category for prompt in asked] == [*CATEGORIES] * 20
    assert {split_of(prompt.scene) for prompt in asked} == {"held_back"}
    assert all(prompt.text in phrasings(prompt.scene) for prompt in asked)
    assert make_prompts(Settings(count=16)) == asked[:16]
    assert {split_of(prompt.scene) for prompt in make_prompts(Settings(count=16, split="train"))} == {"train"}


def test_phrasing_and_contrast_are_as_asked():
    """Catches a switch that is read and then ignored: scores on another world or grammar do not compare."""

    def pairs(prompts) -> set:
        found = {(obj.colour, prompt.scene.background) for prompt in prompts for obj in prompt.scene.objects}
        return {pair for low in LOW_CONTRAST for pair in (low, low[::-1])} & found

    plain, loose, contrast = (
        make_prompts(Settings(count=240, **changes)) for changes in ({}, {"any_phrasing": True}, {"low_contrast": True})
    )
    assert pairs(plain) == set() and pairs(contrast)
    odd = ("there is", "draw ", "show ", "next to", "to the left of", " that is ", "exactly")
    assert not [prompt.text for prompt in plain if any(word in prompt.text for word in odd)]
    assert all(any(word in prompt.text for prompt in loose) for word in odd)


@pytest.mark.parametrize("source", SOURCES)
def test_an_image_is_the_same_in_any_batch(source, pipeline):
    """Catches rows that share a seed or take their neighbour's tokens."""
    whole = evaluate(pipeline, FEW, source).images.astype(int)
    cut = evaluate(pipeline, Settings(count=8, seeds=1, steps=2, batch=3), source).images.astype(int)
    assert whole.shape == (8, 64, 64, 3) and np.abs(whole - cut).max() <= 1
    assert len(np.unique(whole, axis=0)) == 8


def true_images() -> torch.Tensor:
    return torch.stack([torch.from_numpy(rasterize(prompt.scene, 64)) for prompt in make_prompts(FEW)]) / 255


def test_each_source_is_what_it_says(pipeline, monkeypatch):
    """Catches sampled codes where the true image's are meant, or the prompts of other images beside them."""
    real, given = Pipeline.latents, []
    monkeypatch.setattr(
        Pipeline, "latents", lambda self, tokens, *rest: given.append(tokens) or real(self, tokens, *rest)
    )
    evaluate(pipeline, FEW, TRUE_CODES)
    evaluate(pipeline, FEW, CODES)
    true, sampled = given
    tokenizer = pipeline.image_tokenizer
    views = torch.cat([tokenizer_input(image, "stretch", tokenizer.image_size) for image in to_images(true_images())])
    assert torch.equal(true.codes, encode_images(tokenizer, views)[0])
    assert true.prompts == sampled.prompts == [prompt.text for prompt in make_prompts(FEW)]
    assert true.prompt_ids == sampled.prompt_ids
    assert torch.equal(sampled.codes, pipeline.generate_tokens(true.prompts, list(range(8))).codes)


def test_the_autoencoder_alone(pipeline):
    """Catches a scale applied once on the way there and back, and a noise that the round trip does not have."""
    result = evaluate(pipeline, FEW, AUTOENCODER)
    vae = pipeline.autoencoder
    expected = autoencoder.decode(vae, autoencoder.encode(vae, true_images()))
    assert np.abs(result.images - expected.numpy() * 255).max() <= 0.51
    assert len(evaluate(pipeline, Settings(count=8, seeds=3, steps=1), AUTOENCODER).verdicts) == 1


def test_settings_reach_the_model(pipeline):
    """Catches steps, guidance or sampling that are printed and not used."""
    plain = evaluate(pipeline, FEW).images
    for change in ({"steps": 3}, {"guidance": 5.0}, {"sampling": evaluation.Sampling(temperature=0.2)}):
        other = evaluate(pipeline, Settings(**{"count": 8, "seeds": 1, "steps": 2, "batch": 8, **change}))
        assert not np.array_equal(other.images, plain), change


@pytest.mark.parametrize("edition, prompts, edits", [(1, 8, 6), (2, 9, 7)])
def test_a_count_has_one_of_each_category(edition, prompts, edits):
    """Catches a table without the last category of the second edition, or without its compositions."""
    for kind, least in ((Settings, prompts), (edit_evaluation.Settings, edits)):
        assert kind(count=least, edition=edition)
        with pytest.raises(Blip3oError, match=f"count is {least - 1}. Give (at least )?{least}"):
            kind(count=least - 1, edition=edition)


def test_parts_in_training_are_read_as_they_are_now(checkpoint, pipeline):
    """Catches an evaluation while training that conditions on hidden states of weights that have changed since."""
    parts = Pipeline(checkpoint)
    mine = Pipeline.of(checkpoint, parts.language, parts.transformer, parts.autoencoder)
    tokens = mine.generate_tokens(["a ring"], [3])
    theirs = pipeline.generate_tokens(["a ring"], [3])
    assert torch.equal(tokens.codes, theirs.codes)
    assert torch.allclose(mine.latents(tokens, [1], steps=2), pipeline.latents(theirs, [1], steps=2), atol=1e-4)
    with torch.no_grad():
        parts.language.model.norm.weight.mul_(-1)
    assert not torch.allclose(mine.latents(tokens, [1], steps=2), pipeline.latents(theirs, [1], steps=2), atol=1e-2)


def test_images_are_scaled_to_the_tower_as_in_training(pipeline, monkeypatch):
    """Catches other codes than the language model was trained on: this tower sees 76 px, images have 64."""
    tokenizer, seen = pipeline.image_tokenizer, []
    real, side = tokenizer.features, tokenizer.config.image_size
    monkeypatch.setattr(tokenizer, "features", lambda pixels: seen.append(pixels) or real(pixels))
    images = [rasterize(prompt.scene, 64) for prompt in make_prompts(FEW)]
    pipeline.tokens_of(true_images(), ["a"] * len(images))
    trained = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images]
    off = torch.cat(seen).movedim(1, -1) - (torch.from_numpy(np.stack(trained)) / 127.5 - 1)
    assert side != 64 and off.abs().max() <= 1e-6


@pytest.fixture(scope="module")
def training_scenes():
    return [make_scene(0, "train", index, category=CATEGORIES[index % 8]) for index in range(80)]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_reason_has_a_kind(corruption, training_scenes):
    """Catches a reason in new words that is counted nowhere."""
    found = set()
    for index, scene in enumerate(training_scenes):
        wrong = corrupt(scene, corruption, index)
        if wrong is not None:
            found |= {failure_kind(reason) for reason in judge_image(rasterize(wrong), spec_of(scene)).reasons}
    assert evaluation.OTHER not in found
    assert found or corruption == "wrong letter"


@pytest.mark.parametrize(
    "reason, kind",
    [
        ("no objects instead of 1", "too few objects"),
        ("2 objects instead of 4", "too few objects"),
        ("3 objects instead of 2", "too many objects"),
        ("the red star is missing", "too few objects"),
        ("a circle instead of the red star", "another shape"),
        ("the red star is blue", "another colour"),
        ("an unclear shape instead of the star", "shape unclear"),
        ("the star is an unclear colour", "colour unclear"),
        ("the background is an unclear colour, not red", "background"),
        ("the small red star is large (radius 28 of 128)", "size"),
        ("the star is not left of the ring", "position"),
        ("the star is cut off at the edge", "cut off"),
        ("a word nobody knows", "other"),
    ],
)
def test_kinds(reason, kind):
    """Catches two kinds taken for one."""
    assert failure_kind(reason) == kind


def test_speed_is_by_part_and_positive(pipeline):
    """Catches a part that is not timed, and a first image that counts although it warms up."""
    seconds = evaluation.measure_speed(pipeline, FEW, count=2)
    assert list(seconds) == ["tokens", "rendering", "decoding"] and min(seconds.values()) > 0


@pytest.fixture(scope="module")
def command(tiny, tmp_path_factory):
    """One run of the command with everything switched on -> (folder, what it printed)."""
    import contextlib
    import io

    folder, said = tmp_path_factory.mktemp("evaluation"), io.StringIO()
    with contextlib.redirect_stdout(said):
        options = "--device=cpu --count=16 --seeds=2 --steps=2 --from=all --speed".split()
        files = [f"--json={folder / 'new' / 'numbers.json'}", f"--grid={folder / 'grid.png'}"]
        status = main(["recipe", "parts", f"--checkpoint={tiny}", *options, *files])
    assert status == 0
    return folder, said.getvalue()


def test_the_command_prints_a_table(command):
    """Catches a category, a source or the split of the seconds missing from what a person reads."""
    titles = ("sampled codes", "true codes", "autoencoder")
    for word in (*CATEGORIES, *titles, "mean", "weakest", "2 seeds", "one image at a time"):
        assert word in command[1], word


def test_the_numbers_as_json(command, tiny, pipeline):
    """Catches numbers that are only printed, are not JSON, name this machine, or do not say how they came about."""
    text = (command[0] / "new" / "numbers.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert set(report["sources"]) == set(SOURCES) and set(report["sources"]["codes"]["strict"]) == set(CATEGORIES)
    assert report["settings"]["count"] == 16 and report["settings"]["sampling"]["top_p"] == 0.95
    assert report["dtype"] == "float32" and report["seconds_one_at_a_time"]["tokens"] > 0
    assert len(report["weights"]) == 64 and report["sources"]["codes"]["images"] == 32
    for place in (tiny.parent, command[0]):
        assert str(place) not in text
    again = evaluate(pipeline, Settings(count=16, seeds=2, steps=2))
    assert report["sources"]["codes"]["failures"] == again.failures()


def test_options_reach_the_settings(tiny, tmp_path):
    """Catches an option that is read and then ignored."""
    options = {
        "count": 9,
        "seeds": 1,
        "split": "train",
        "steps": 1,
        "guidance": 3.5,
        "any_phrasing": True,
        "low_contrast": True,
        "batch": 4,
    }
    sampling = {"top_k": 7, "top_p": 0.5, "temperature": 0.25}
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in (options | sampling).items()
    ]
    out = tmp_path / "a.json"
    words += ["--from=codes", f"--checkpoint={tiny}", "--device=cpu", "--dtype=bf16", f"--json={out}"]
    assert main(["recipe", "parts", *words]) == 0
    report = json.loads(out.read_text())
    asked = report["settings"].pop("sampling")
    assert report["settings"] == options | {"edition": 1} and {name: asked[name] for name in sampling} == sampling
    assert report["dtype"] == "bfloat16" and list(report["sources"]) == ["codes"]


def test_the_grid_shows_every_category(command):
    """Catches a grid that is cut, holds one source only, or cannot be told from another run's."""
    with Image.open(command[0] / "grid.png") as image:
        assert image.width == 2 * (480 + 8) and image.height > 8 * 120
    assert read_settings(command[0] / "grid.png")["settings"]["count"] == 16


def test_the_grid_has_room_for_every_shape():
    """Catches a grid without words, and true images of another size than the ones beside them."""
    settings = Settings(count=45, edition=2)
    prompts = evaluation.make_prompts(settings)
    images = [rasterize(prompt.scene, 128) for prompt in prompts]
    verdicts = tuple(judge_image(image, spec_of(each.scene)) for image, each in zip(images, prompts, strict=True))
    stacked = evaluation._stacked(images)
    assert stacked.shape[1:3] == (192, 192)
    results = [
        evaluation.Result(source, settings, tuple(prompts), (verdicts,), stacked, {}) for source in (CODES, AUTOENCODER)
    ]
    one, two = (evaluation_report.grid(some) for some in (results[:1], results))
    assert two.shape[1] > one.shape[1] and one.shape[0] > 9 * 192


def test_frames_tell_right_from_wrong(pipeline, replace_images):
    """Catches marks on the wrong images."""
    replace_images(lambda prompt, seed: blank(prompt) if prompt.category == "size" else rasterize(prompt.scene))
    page = evaluation_report.grid([evaluate(pipeline, FEW)])
    right, wrong = (
        np.argwhere((page == colour).all(-1))[:, 0] for colour in (evaluation_report.RIGHT, evaluation_report.WRONG)
    )
    assert len(right) and len(wrong) and right.max() < wrong.min()  # size is the last row


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--count=7"], "--count: 7"),
        (["--seeds=0"], "seeds"),
        (["--batch=0"], "batch"),
        (["--split=x"], "held_back"),
        (["--steps=0"], "steps"),
        (["--guidance=nan"], "guidance"),
        (["--temperature=-1"], "temperature"),
        (["--grid=a.jpg"], ".png"),
        (["--json=/dev/null/a.json"], "--json"),
    ],
)
def test_a_mistake_is_said(arguments, message, tiny, capsys, monkeypatch):
    """Catches a traceback, and minutes of work before the refusal."""
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("it makes images before it refuses"))
    status = main(["recipe", "parts", f"--checkpoint={tiny}", "--count=8", *arguments])
    assert status == (1 if message == "--json" else 2)
    said = capsys.readouterr()
    assert said.out == "" and message in said.err


def test_a_checkpoint_without_image_tokenizer(copy, capsys):
    """Catches an attribute error where true codes cannot be had; sampled ones can."""
    copy.edit_tensors(lambda tensors: [tensors.pop(name) for name in list(tensors) if "vision_tower" in name])
    with pytest.raises(Blip3oError, match="image tokenizer"):
        evaluate(Pipeline.load(copy.folder), FEW, TRUE_CODES)


def test_default_background_is_the_default():
    """Catches a world whose share of coloured backgrounds is not the one that scores were reported with."""
    asked = make_prompts(Settings(count=400))
    assert 0.15 < np.mean([prompt.scene.background != DEFAULT_BACKGROUND for prompt in asked]) < 0.25
