"""The judge: right images pass, each kind of wrong one fails for its reason, crisp or soft; nothing breaks it."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

import blip3o_core.tiny.judge.report as reports
from blip3o_core import Blip3oError
from blip3o_core.cli.main import main
from blip3o_core.tiny import (
    CATEGORIES,
    EDIT_KINDS,
    TEXT,
    Expected,
    Scene,
    Spec,
    World,
    judge_edit,
    make_edit,
    make_scene,
    rasterize,
    spec_of,
)
from blip3o_core.tiny.judge.corruptions import CORRUPTIONS, corrupt
from blip3o_core.tiny.judge.degradation import Degradation, degrade, fit_degradation
from blip3o_core.tiny.judge.judge import detect, judge_image
from blip3o_core.tiny.judge.report import LEVELS, degradations
from blip3o_core.tiny.scenes.font import CHARACTERS
from blip3o_core.tiny.scenes.shapes import SHAPES
from blip3o_core.tiny.scenes.spec import best_assignment, detection_of, edit_distance
from blip3o_core.tiny.scenes.world import COLOURS, PALETTE, SceneObject, Word

NAMES = (*CATEGORIES, TEXT)
WORLDS = {"snapped": World(coloured=0.4), "continuous": World(snapped=False, coloured=0.4)}

LEFT, RIGHT = SceneObject("circle", "red", 32, 64, 20), SceneObject("star", "blue", 96, 64, 20)
PAIR = Scene("position", (LEFT, RIGHT), relation="left of")
BOTH = Spec((Expected("circle", "red"), Expected("star", "blue")), relation=(0, "left of", 1))
SMALL = Scene("size", (SceneObject("ring", "green", 64, 64, 15),), size="small")
WORD = Scene(TEXT, (), word=Word("CAT", "red", 24, 40, 4.0))
SAME = make_edit(0, "train", 0, kind="keep")


def moved(scene: Scene, index: int, **changes) -> Scene:
    objects = list(scene.objects)
    objects[index] = replace(objects[index], **changes)
    return replace(scene, objects=tuple(objects))


def degradations_at_128() -> dict:
    """As `degradations`, fitted to fewer images: at this size the fit takes seconds."""
    images = [rasterize(make_scene(0, "train", index), 128) for index in range(12)]
    levels = {name: fit_degradation(images, level.psnr or 99, level.colour_shift) for name, level in LEVELS.items()}
    return {**levels, "clean": Degradation()}


# ---- right images


@pytest.mark.parametrize(("side", "name"), [(64, "snapped"), (64, "continuous"), (128, "continuous")])
def test_true_images_are_right_crisp_and_soft(side, name):
    """Catches a threshold that only perfect pixels pass: an autoencoder of 32 dB, and colours that are 10 % off."""
    levels = degradations(64, World()) if side == 64 else degradations_at_128()
    for category in NAMES:
        for index in range(6 if side == 64 else 3):
            scene = make_scene(100, "held_back", index, WORLDS[name], category)
            image = rasterize(scene, side)
            for level in ("clean", "32 dB", "32 dB, 10 % off"):
                verdict = judge_image(degrade(image, levels[level], np.random.default_rng(index)), spec_of(scene))
                assert verdict.strict and verdict.layout and verdict.credit == 1, (category, index, verdict.reasons)
                assert not verdict.reasons


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_shape_in_every_colour_is_seen_as_it_is(shape, colour):
    """Catches a colour or shape that is taken for another at some size, place or background."""
    for background in ("grey", "white", "black", "cyan"):
        for x, y, radius in ((40, 88, 16), (64, 64, 28), (71.3, 50.9, 22.2)):
            if colour != background:
                detection = detect(rasterize(Scene("", (SceneObject(shape, colour, x, y, radius),), background)))
                (seen,) = detection.objects
                assert (seen.shape, seen.colour, detection.background, seen.cut) == (shape, colour, background, False)
                assert seen.radius == pytest.approx(radius, rel=0.06)
                assert seen.x == pytest.approx(x, abs=1) and seen.y == pytest.approx(y, abs=3)


# ---- wrong images


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_each_corruption_is_caught_crisp_and_soft(corruption):
    """Catches a judge that is blind to one way of being wrong."""
    levels, done = degradations(64, World()), 0
    for index in range(200):
        scene = make_scene(200, "train", index, WORLDS["snapped"], NAMES[index % 9])
        wrong = corrupt(scene, corruption, index)
        if wrong is not None and done < 25:
            done += 1
            for level in ("clean", "32 dB"):
                verdict = judge_image(
                    degrade(rasterize(wrong), levels[level], np.random.default_rng(index)), spec_of(scene)
                )
                assert not verdict.strict and verdict.reasons and verdict.credit < 0.99, (corruption, index)
    assert done >= 9


CASES = {
    "shape": (moved(PAIR, 1, shape="cross"), BOTH, True, "a cross instead of the blue star"),
    "colour": (moved(PAIR, 1, colour="pink"), BOTH, False, "the blue star is pink"),
    "missing": (replace(PAIR, objects=(LEFT,)), BOTH, False, "the blue star is missing"),
    "extra": (replace(PAIR, objects=(LEFT, RIGHT, SceneObject("star", "blue", 64, 108, 16))), BOTH, False, "3 objects"),
    "order": (moved(moved(PAIR, 0, x=96.0), 1, x=32.0), BOTH, False, "the red circle is not left of the blue star"),
    "aside": (moved(moved(PAIR, 0, x=56.0, y=28.0), 1, x=72.0, y=100.0), BOTH, False, "is not left of"),
    "background": (replace(PAIR, background="white"), BOTH, False, "the background is white, not grey"),
    "cut": (moved(PAIR, 0, x=15.0), BOTH, True, "the red circle is cut off at the edge"),
    "large": (moved(SMALL, 0, radius=26), spec_of(SMALL), True, "the small green ring is large (radius 26 of 128)"),
    "nothing": (replace(PAIR, objects=()), BOTH, False, "no objects instead of 2"),
    "letter": (replace(WORD, word=replace(WORD.word, text="COT")), spec_of(WORD), True, '"COT" instead of "CAT", 1'),
    "letters": (replace(WORD, word=replace(WORD.word, text="CATS")), spec_of(WORD), False, '"CATS" instead of "CAT"'),
    "ink": (replace(WORD, word=replace(WORD.word, colour="blue")), spec_of(WORD), False, "the word is blue, not red"),
    "no word": (replace(WORD, word=None), spec_of(WORD), False, 'no word instead of "CAT"'),
    "word cut": (replace(WORD, word=replace(WORD.word, left=-2)), spec_of(WORD), True, "the word is cut off"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", [64, 128])
def test_a_wrong_image_fails_for_its_reason(case, side):
    """Catches a fault that is caught by luck, for another one's reason, and a `layout` that sees shape or size."""
    scene, spec, layout, reason = CASES[case]
    verdict = judge_image(rasterize(scene, side), spec)
    assert not verdict.strict and verdict.layout == layout
    assert any(reason in said for said in verdict.reasons), verdict.reasons


def polygon(*corners, fill=(220, 40, 40)) -> np.ndarray:
    image = Image.new("RGB", (512, 512), PALETTE["grey"])
    ImageDraw.Draw(image).polygon([(4 * x, 4 * y) for x, y in corners], fill)
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX))


def regular(n: int, turn: float, *radii: float):
    return [
        (
            64 + radii[k % len(radii)] * math.sin(turn + 2 * math.pi * k / n),
            64 - radii[k % len(radii)] * math.cos(turn + 2 * math.pi * k / n),
        )
        for k in range(n)
    ]


@pytest.mark.parametrize(
    "corners",
    [
        regular(4, 0, 24),
        regular(4, math.pi / 4 + 0.35, 24),
        regular(3, math.pi, 24),
        regular(5, 0, 24),
        regular(10, math.pi / 5, 24, 10),
        regular(12, 0, 22, 14),
        [(44, 30), (60, 30), (60, 98), (44, 98)],
        [(40, 44), (88, 44), (88, 76), (76, 76), (76, 60), (40, 60)],
    ],
    ids=["diamond", "turned square", "triangle down", "pentagon", "star down", "six points", "bar", "hook"],
)
def test_other_shapes_are_none(corners):
    """Catches 'the likest of six' without a threshold: a reward that any blob earns."""
    (seen,) = detect(polygon(*corners)).objects
    assert seen.shape is None and seen.colour == "red"
    assert not any(judge_image(polygon(*corners), Spec((Expected(shape),))).strict for shape in SHAPES)


def test_a_colour_between_the_palettes_has_no_name():
    """Catches brown that counts as red, since red is the nearest."""
    corners = regular(60, 0, 20)
    for fill in ((110, 90, 60), (255, 0, 255), (90, 110, 20)):
        (seen,) = detect(polygon(*corners, fill=fill)).objects
        assert seen.shape == "circle" and seen.colour is None
        assert not judge_image(polygon(*corners, fill=fill), Spec((Expected("circle", "red"),))).strict


def test_an_object_of_two_colours_is_none():
    """Catches half a red and half a blue circle that passes for a red one."""
    red, blue = (rasterize(Scene("", (SceneObject("circle", colour, 64, 64, 24),))) for colour in ("red", "blue"))
    red[:, 32:] = blue[:, 32:]
    (seen,) = detect(red).objects
    assert seen.colour is None and seen.shape is None


# ---- words


def test_every_character_is_read_back_crisp_and_soft():
    """Catches look-alikes (O and 0, I and 1, S and 5), at the ends and within a word."""
    level = degradations(64, World())["32 dB"]
    for k, character in enumerate(CHARACTERS):
        other = CHARACTERS[(k * 7 + 3) % 36]
        for text in (character, character + other, other + character + other, other * 3 + character):
            scene = Scene(TEXT, (), word=Word(text, "blue", 8, 8 * (k % 10 + 1), 4.0))
            for image in (rasterize(scene), degrade(rasterize(scene), level, np.random.default_rng(k))):
                assert judge_image(image, spec_of(scene)).strict, text


def test_letters_off_is_the_edit_distance():
    """Catches a comparison by place, which makes one lost letter three wrong ones."""
    for a, b, distance in (("CAT", "CAT", 0), ("AT", "CAT", 1), ("C", "CAT", 2), ("CAT", "", 3), ("TAC", "CAT", 2)):
        assert edit_distance(a, b) == edit_distance(b, a) == distance
    assert judge_image(rasterize(replace(WORD, word=replace(WORD.word, text="AT"))), spec_of(WORD)).letters_off == 1
    scribble = rasterize(WORD)
    scribble[22:34, 12:20] = np.random.default_rng(0).choice([40, 205], (12, 8, 1))
    assert not judge_image(scribble, spec_of(WORD)).strict


# ---- credit


def test_credit_rises_with_every_mended_fault():
    """Catches a reward that does not lead uphill: each image below is one fault better than the one before."""
    steps = [
        replace(PAIR, objects=(), background="black"),
        replace(PAIR, objects=()),
        replace(PAIR, objects=(replace(LEFT, colour="green", shape="cross"),)),
        replace(PAIR, objects=(LEFT,)),
        replace(PAIR, objects=(LEFT, replace(RIGHT, shape="square", colour="pink", y=10.0))),
        replace(PAIR, objects=(LEFT, replace(RIGHT, shape="square", colour="pink"))),
        replace(PAIR, objects=(LEFT, replace(RIGHT, shape="square"))),
        PAIR,
    ]
    credits = [judge_image(rasterize(scene), BOTH).credit for scene in steps]
    assert credits == sorted(credits) and len(set(credits)) == len(credits)
    assert credits[0] < 0.05 and credits[1] < 0.2 and credits[-1] == 1
    words = [
        judge_image(rasterize(replace(WORD, word=replace(WORD.word, text=text))), spec_of(WORD)).credit
        for text in ("DOGE", "DOG", "COG", "COT", "CAT")
    ]
    assert words == sorted(words) and words[-1] == 1


@pytest.mark.parametrize("word", [False, True])
def test_no_image_breaks_the_judge(word):
    """Catches a division by nothing, an endless search among specks, a credit outside [0, 1]."""
    rng = np.random.default_rng(0)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    dots = np.full((64, 64, 3), 205, np.uint8)
    dots[4:-4:5, 4:-4:5] = dots[5:-4:5, 4:-4:5] = dots[4:-4:5, 5:-4:5] = dots[5:-4:5, 5:-4:5] = (220, 40, 40)
    images = [
        rng.integers(0, 256, (64, 64, 3), np.uint8),
        rng.random((40, 40, 3)),
        np.zeros((16, 16, 3), np.uint8),
        np.full((64, 64, 3), 1.0),
        stripes,
        stripes.transpose(1, 0, 2).copy(),
        dots,
        np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3),
        np.eye(64)[..., None].repeat(3, 2),
    ]
    specs = [spec_of(WORD)] if word else [BOTH, spec_of(SMALL), Spec((Expected("star"),) * 4)]
    for image in images:
        for spec in specs:
            verdict = judge_image(image, spec)
            assert not verdict.strict and verdict.reasons and 0 <= verdict.credit < 0.7


# ---- any image


@pytest.mark.parametrize("scene", [PAIR, SMALL, WORD, replace(PAIR, objects=(LEFT,))])
def test_a_verdict_is_plain_data(scene):
    """Catches numpy scalars: a table in JSON would not be written, and `is True` would be false."""
    for verdict in (
        judge_image(rasterize(scene), spec_of(WORD if scene.word else PAIR)),
        judge_edit(rasterize(scene), SAME),
    ):
        assert type(verdict.strict) is type(verdict.layout) is bool and type(verdict.credit) is float
        assert json.loads(json.dumps(asdict(verdict)))["reasons"] == list(verdict.reasons)


def test_the_verdict_does_not_depend_on_size_or_number_format():
    """Catches lengths in pixels, floats that are taken for bytes, and chance."""
    for scene in (PAIR, SMALL, WORD, CASES["cut"][0], CASES["letter"][0]):
        spec = spec_of(WORD if scene.word else SMALL if scene.size else PAIR)
        first = judge_image(rasterize(scene, 64), spec)
        large = np.asarray(Image.fromarray(rasterize(scene, 64)).resize((300, 300), Image.Resampling.BICUBIC))
        single = (rasterize(scene, 64) / 255).astype(np.float32)
        for image in (rasterize(scene, 64) / 255, single, rasterize(scene, 100), rasterize(scene, 512), large):
            verdict = judge_image(image, spec)
            assert (verdict.strict, verdict.layout, verdict.reasons) == (first.strict, first.layout, first.reasons)
    assert judge_image(rasterize(PAIR) / 255, BOTH) == judge_image(rasterize(PAIR), BOTH)


def test_a_wide_image_is_judged_without_squeezing_it():
    """Catches circles that are ellipses once an image is not square."""
    wide = np.hstack([rasterize(PAIR), np.full((64, 32, 3), 205, np.uint8)])
    assert judge_image(wide, BOTH).strict


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((3, 64, 64), np.uint8), "(3, 64, 64)"),
        (np.zeros((64, 64), np.uint8), "(64, 64)"),
        (np.zeros((8, 8, 3), np.uint8), "16 pixels"),
        (np.zeros((64, 64, 3), np.int64), "int64"),
        (np.full((64, 64, 3), np.nan), "NaN"),
    ],
)
def test_other_arrays_are_refused(image, word):
    """Catches channels first, and a broken model's NaN that is judged as black."""
    with pytest.raises(Blip3oError) as error:
        judge_image(image, BOTH)
    assert word in str(error.value)


def test_the_assignment_serves_the_relation():
    """Catches objects that are assigned one by one: of two equal circles the left one would be taken for the right."""
    left, right = detection_of(PAIR).objects
    left, right = replace(left, colour="red", shape="circle"), replace(right, colour="red", shape="circle")
    twins = Spec((Expected("circle", "red"), Expected("circle", "red")), relation=(0, "right of", 1))
    assert best_assignment((left, right), twins) == best_assignment((right, left), twins) == (right, left)
    assert best_assignment((left,), twins).count(None) == 1 and best_assignment((), Spec()) == ()


# ---- the report


@pytest.mark.slow
def test_the_report_measures_and_fails_when_a_gate_does(monkeypatch, capsys):
    """Catches a report that says the gates hold whatever it measured."""
    assert main(["recipe", "report", "--count", "10"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*NAMES, *CORRUPTIONS, *EDIT_KINDS, "the gates hold"))
    monkeypatch.setattr(
        reports, "judge_image", lambda image, spec: judge_image(image, replace(spec, background="pink"))
    )
    assert main(["recipe", "report", "--count", "1"]) == 1 and "DO NOT HOLD" in capsys.readouterr().out
    assert main(["recipe", "report", "--count", "0"]) == 2 and "--count: 0" in capsys.readouterr().err


def test_corruptions_are_never_right():
    """Catches a corruption that the caption allows: then catching it would be the error."""
    scene = Scene("single_object", (LEFT,), colours_named=False)
    assert corrupt(scene, "wrong colour", 0) is None and corrupt(scene, "wrong letter", 0) is None
    for index in range(30):
        wrong = corrupt(scene, "wrong shape", index)
        assert wrong.objects[0].shape != "circle"
    twins = Scene("position", (LEFT, replace(RIGHT, shape="circle")), relation="left of", colours_named=False)
    assert corrupt(twins, "swapped relation", 0) is None
