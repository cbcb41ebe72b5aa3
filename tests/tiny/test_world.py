"""The tiny world: its scenes, their captions, and that nothing leaks from one split to the other."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.ndimage import label

from blip3o_core import Blip3oError
from blip3o_core.reports.contact_sheet import make_contact_sheet
from blip3o_core.tiny import (
    CATEGORIES,
    EDIT,
    EDIT_KINDS,
    SPLITS,
    TEXT,
    Scene,
    World,
    caption,
    instruction,
    make_edit,
    make_scene,
    rasterize,
    spec_of,
)
from blip3o_core.tiny.judge.examples import examples
from blip3o_core.tiny.scenes.captions import phrasings
from blip3o_core.tiny.scenes.font import CHARACTERS, GLYPHS
from blip3o_core.tiny.scenes.rasterize import footprint
from blip3o_core.tiny.scenes.shapes import AREAS, SHAPES
from blip3o_core.tiny.scenes.spec import compare, detection_of
from blip3o_core.tiny.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    DEFAULT_BACKGROUND,
    LOW_CONTRAST,
    PALETTE,
    RELATIONS,
    SceneObject,
    scene_key,
    split_of,
)
from tests.support.paths import TOP

ALL = (*CATEGORIES, TEXT, EDIT)
WORLDS = {"snapped": World(coloured=0.4), "continuous": World(snapped=False, coloured=0.4)}


def scenes(count: int = 12, world: World | None = None, categories=ALL, seed: int = 1):
    for category in categories:
        for index in range(count):
            yield make_scene(seed, "train", index, world or WORLDS["snapped"], category)


def python(code: str, **environment) -> subprocess.CompletedProcess:
    root = TOP
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ | environment, capture_output=True, text=True
    )


def meaning(scene: Scene):
    """What the caption says, however it is turned: the relation read from the left or from above, the rest sorted."""
    spec = spec_of(scene)
    objects = [(obj.shape, obj.colour or "", obj.size or "") for obj in spec.objects]
    relation = scene.relation
    if relation in ("right of", "below"):
        objects.reverse()
        relation = {"right of": "left of", "below": "above"}[relation]
    return tuple(objects if relation else sorted(objects)), relation, spec.background, spec.word, spec.word_colour


# ---- seeds and splits


def test_the_world_is_the_one_that_models_were_trained_on():
    """Catches a change that moves scenes between the splits: held-back prompts would have been trained on."""
    digest = hashlib.blake2b(digest_size=8)
    for name, world in WORLDS.items():
        for category in ALL:
            for split in SPLITS:
                for index in range(3):
                    scene = make_scene(0, split, index, world, category)
                    digest.update(f"{name} {scene_key(scene)} {caption(scene, index)}".encode())
                    digest.update(rasterize(scene).tobytes() if world.snapped else b"")
    for kind in EDIT_KINDS:
        edit = make_edit(0, "held_back", 5, kind=kind)
        digest.update(f"{scene_key(edit.source)} {scene_key(edit.target)} {instruction(edit, 5)}".encode())
    assert digest.hexdigest() == "9118034a7e0ecc56"


def test_a_scene_depends_on_nothing_but_its_key():
    """Catches a shared generator (other scenes in another order), and Python's hash randomisation."""
    code = "from blip3o_core.tiny import *; print([caption(make_scene(4, 'train', k), k) for k in (9, 2)])"
    run = python(code, PYTHONHASHSEED="1")  # this process has another seed
    assert run.stdout == f"{[caption(make_scene(4, 'train', k), k) for k in (9, 2)]}\n", run.stderr
    first = [make_scene(4, "train", k) for k in range(20)]
    assert first == [make_scene(4, "train", k) for k in reversed(range(20))][::-1]
    assert len({scene_key(make_scene(seed, "train", 3)) for seed in range(20)}) == 20


@pytest.mark.parametrize("name", WORLDS)
def test_splits_share_no_image_and_no_caption_with_its_layout(name):
    """Catches a split by index, under which a small world repeats held-back images in training.

    Two training sets of this size do share images, so the comparison means something.
    """
    world = replace(WORLDS[name], weights=(("single_object", 1.0), ("background", 1.0), ("text", 1.0)))
    keys = {
        (seed, split): {scene_key(make_scene(seed, split, index, world)) for index in range(count)}
        for seed, split, count in ((0, "train", 2500), (1, "train", 600), (0, "held_back", 600))
    }
    assert keys[0, "train"] & keys[1, "train"]
    assert not keys[0, "train"] & keys[0, "held_back"]


def test_both_images_of_an_edit_are_in_its_split():
    """Catches held-back images that training has seen as targets."""
    for split in SPLITS:
        for index in range(30):
            edit = make_edit(3, split, index)
            assert split_of(edit.source) == split_of(edit.target) == split


def test_the_key_of_a_scene_forgets_order_and_small_shifts_and_nothing_else():
    """Catches near-copies in both splits, and unlike scenes that are taken for one."""
    scene = make_scene(0, "train", 0, WORLDS["continuous"], "color_attr")
    first, second = scene.objects
    assert scene_key(replace(scene, objects=(second, first))) == scene_key(scene)
    shifted = replace(first, x=first.x // 8 * 8 + 7.9)
    assert scene_key(replace(scene, objects=(shifted, second))) == scene_key(scene)
    for change in ({"x": first.x + 8}, {"y": first.y + 8}, {"radius": first.radius + 4}, {"colour": second.colour}):
        assert scene_key(replace(scene, objects=(replace(first, **change), second))) != scene_key(scene)
    assert scene_key(replace(scene, background="black")) != scene_key(scene)


# ---- what there is


@pytest.mark.parametrize("name", WORLDS)
def test_objects_are_whole_and_apart_in_the_pixels(name):
    """Catches objects that touch, overlap or leave the frame: their caption would be false."""
    for scene in scenes(20, WORLDS[name]):
        for item in scene.objects or (scene.word,):
            alone = footprint(item, 128) > 0
            assert alone.any() and alone[3:-3, 3:-3].sum() == alone.sum()
        changed = (rasterize(scene, 128) != PALETTE[scene.background]).any(-1)
        if scene.objects:
            around = np.logical_or.reduce([np.roll(changed, s, a) for s in range(-4, 5) for a in (0, 1)])
            assert label(around)[1] == len(scene.objects)  # even four units wider each way


def test_objects_show_on_their_background():
    """Catches a red circle on red, orange on yellow, and forbidden pairs that come all the same."""
    low = {frozenset(pair) for pair in LOW_CONTRAST}
    found = set()
    for world in (World(coloured=1), World(coloured=1, low_contrast=False)):
        for scene in scenes(60, world):
            for item in scene.objects or (scene.word,):
                pair = item.colour, scene.background
                assert item.colour != scene.background and pair != ("orange", "yellow")
                if frozenset(pair) in low:
                    found.add(world.low_contrast)
    assert found == {True}


@pytest.mark.parametrize("name", WORLDS)
def test_categories_hold_what_they_are_named_for(name):
    """Catches wrong numbers, sizes out of their class, objects that a caption cannot tell apart."""
    counts = {"two_object": {2}, "position": {2}, "color_attr": {2}, "counting": {2, 3, 4}, "background": {1, 2}}
    counts |= {EDIT: {1, 2, 3}, TEXT: {0}}
    for category in ALL:
        group = list(scenes(60, WORLDS[name], (category,)))
        assert {len(scene.objects) for scene in group} == counts.get(category, {1})
        for scene in group:
            kinds = {(obj.shape, scene.colours_named and obj.colour) for obj in scene.objects}
            assert len(kinds) == (1 if category == "counting" else len(scene.objects))
            assert (scene.background != DEFAULT_BACKGROUND) or category != "background"
            if category == "size":
                low, high = {"small": (13, 16.5), "large": (24, 29)}[scene.size]
                assert low <= scene.objects[0].radius <= high
            if category == "counting" and len(group[0].objects) > 2:
                assert all(14 <= obj.radius <= 20 for obj in group[0].objects)
            assert compare(detection_of(scene), spec_of(scene)).strict
    if name == "snapped":
        for scene in scenes(30):
            assert all(obj.x % 8 == obj.y % 8 == obj.radius % 4 == 0 for obj in scene.objects)


def test_everything_occurs():
    """Catches an off-by-one in the random choices: a shape, colour, relation or character that never occurs."""
    group = list(scenes(250, World(coloured=1)))
    assert {obj.shape for scene in group for obj in scene.objects} == set(SHAPES)
    assert {obj.colour for scene in group for obj in scene.objects} == set(COLOURS)
    assert {scene.background for scene in group} == set(BACKGROUNDS)
    assert {scene.relation for scene in group if scene.relation} == set(RELATIONS)
    assert set("".join(scene.word.text for scene in group if scene.word)) == set(CHARACTERS)


@pytest.mark.parametrize("coloured", [0.0, 0.2, 0.4, 1.0])
def test_the_mix_is_as_asked(coloured):
    """Catches weights that are ignored, and a share of coloured backgrounds that leaves out the background category."""
    world = World(coloured=coloured, weights=(("position", 2.0), ("background", float(coloured > 0)), (TEXT, 3.0)))
    drawn = [make_scene(0, "train", index, world) for index in range(1200)]
    share = sum(scene.background != DEFAULT_BACKGROUND for scene in drawn) / len(drawn)
    assert abs(share - coloured) < 0.05  # three standard deviations
    seen = Counter(scene.category for scene in drawn)
    total = 5 + (coloured > 0)
    assert abs(seen["position"] / 1200 - 2 / total) < 0.05 and abs(seen[TEXT] / 1200 - 3 / total) < 0.05


# ---- drawing


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_the_area_it_should_where_it_should(shape):
    """Catches a shape of the wrong size, upside down, or off its centre by a pixel or a half."""
    for side, x, y, radius in ((128, 60.0, 70.0, 20.0), (64, 61.3, 66.9, 26.7)):
        coverage = footprint(SceneObject(shape, "red", x, y, radius), side)
        unit = 128 / side
        assert coverage.sum() * unit**2 == pytest.approx(AREAS[shape] * radius**2, rel=0.03)
        rows, columns = np.mgrid[:side, :side] * unit + unit / 2
        assert (coverage * columns).sum() / coverage.sum() == pytest.approx(x, abs=0.1)
        low = (coverage * rows).sum() / coverage.sum() - y  # a triangle's mass lies a sixth of a radius down
        assert low == pytest.approx(radius * (0.5 / 3 if shape == "triangle" else 0), abs=0.1)


def test_colours_are_the_palettes_and_the_ground_is_untouched():
    """Catches swapped channels, rounding, and a background that anti-aliasing tints."""
    scene = Scene("colors", (SceneObject("circle", "orange", 40, 40, 20),), "purple")
    picture = rasterize(scene)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert tuple(picture[20, 20]) == (245, 140, 20)
    outside = footprint(scene.objects[0]) == 0
    assert (picture[outside] == (130, 50, 180)).all()
    edge = (footprint(scene.objects[0]) > 0.3) & (footprint(scene.objects[0]) < 0.7)
    assert edge.any() and not (picture[edge] == (245, 140, 20)).all(-1).any()


@pytest.mark.parametrize("name", WORLDS)
def test_a_scene_is_the_same_at_every_side(name):
    """Catches lengths in pixels: at another side objects would be elsewhere, or of another size."""
    for scene in scenes(4, WORLDS[name]):
        small, large = rasterize(scene, 64).astype(float), rasterize(scene, 128).astype(float)
        halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(halved - small).max() < 45 and np.abs(halved - small).mean() < 1


def test_glyphs_fill_their_cells_and_no_two_are_alike():
    """Catches a glyph that the reader would place wrongly, or take for another."""
    assert CHARACTERS == "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    for glyph in GLYPHS.values():
        assert glyph.shape == (7, 5) and glyph.any(0).all() and glyph.any(1).all()
    assert min((a != b).sum() for a, b in combinations(GLYPHS.values(), 2)) >= 4


# ---- words


def test_the_plain_captions_do_not_change():
    """Catches a change of the plain grammar: its scores would no longer compare."""
    wanted = {
        "single_object": "(a|an) {shape}",
        "two_object": "a {shape} and a {shape}",
        "colors": "an? {colour} {shape}",
        "size": "a (small|large) {colour} {shape}",
        "color_attr": "an? {colour} {shape} and an? {colour} {shape}",
        "counting": "(two|three|four) ({colour} )?{shape}e?s",
        "position": "an? ({colour} )?{shape} {relation} an? ({colour} )?{shape}",
        "background": "an? ({colour} )?{shape}( and an? ({colour} )?{shape})? on an? {ground} background",
        TEXT: 'the word "[A-Z0-9]{{1,4}}" in {colour}',
    }
    words = {"shape": SHAPES, "colour": COLOURS, "ground": BACKGROUNDS, "relation": RELATIONS}
    words = {key: f"({'|'.join(options)})" for key, options in words.items()}
    for index, scene in enumerate(scenes(25, categories=tuple(wanted))):
        pattern = wanted[scene.category].format(**words)
        if scene.background != DEFAULT_BACKGROUND and scene.category != "background":
            pattern += " on an? {ground} background".format(**words)
        assert re.fullmatch(pattern, caption(scene)), caption(scene)
        assert re.fullmatch(f"(a picture of |an image of )?{pattern}", caption(scene, index, plain=True))
        assert caption(scene) == next(iter(phrasings(scene))) and caption(scene, index) in phrasings(scene)


def test_every_meaning_has_several_wordings_and_no_two_meanings_share_one():
    """Catches a wording that drops the colour, the background or the order of a relation."""
    said = {}
    for scene in scenes(50):
        ways = phrasings(scene)
        assert len(ways) >= 12
        for text in ways:
            assert said.setdefault(text, meaning(scene)) == meaning(scene), text
            assert "  " not in text and "{" not in text and text == text.strip() and text[-1] not in ",="
            assert not re.search(r"\b(a [aeiou]|an [^aeiou])", text)
            for obj in scene.objects:
                assert obj.shape in text
                assert (obj.colour in text) or not scene.colours_named
                assert scene.colours_named or obj.colour == scene.background or obj.colour not in text
            assert scene.word is None or f'"{scene.word.text}"' in text


def test_position_captions_keep_their_direction():
    """Catches an inverted wording ('b right of a') that is not turned round with its objects.

    Read by rules of its own: which noun comes first, and whether the relation's word stands before both.
    """
    towards = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "over": (0, -1), "higher": (0, -1)}
    towards |= {"below": (0, 1), "under": (0, 1), "lower": (0, 1)}
    for scene in scenes(80, categories=("position",)):
        for text in phrasings(scene):
            word = re.search("|".join(rf"\b{word}\b" for word in towards), text)
            nouns = re.findall(f"(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})", text)
            found = [
                next(t for t in scene.objects if t.shape == shape and colour in ("", t.colour))
                for colour, shape in nouns
            ]
            first = text.index(nouns[0][1])
            subject, other = found if word.start() > first else reversed(found)
            x, y = towards[word.group()]
            assert (subject.x - other.x) * x + (subject.y - other.y) * y > 0, text


def test_captions_of_a_seed_are_fixed_and_varied():
    """Catches a caption drawn anew each time, and one that is always the same."""
    scene = make_scene(0, "train", 0, category="color_attr")
    assert [caption(scene, k) for k in range(60)] == [caption(scene, k) for k in range(60)]
    assert len({caption(scene, k) for k in range(60)}) > 15
    assert len({caption(scene, k, plain=True) for k in range(60)}) == 3


# ---- at the door


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: make_scene(0, "test", 0), "held_back"),
        (lambda: make_scene(0, "train", 0, category="colours"), "colors"),
        (lambda: make_edit(0, "train", 0, kind="blur"), "recolour"),
        (lambda: make_edit(0, "val", 0), "held_back"),
        (lambda: World(coloured=40), "40"),
        (lambda: World(weights=(("shapes", 1.0),)), "shapes"),
        (lambda: World(weights=(("size", -1.0),)), "-1"),
        (lambda: World(weights=(("size", 0.0),)), "weight 0"),
        (lambda: rasterize(make_scene(0, "train", 0), 8), "8"),
    ],
)
def test_a_wrong_argument_is_named(call, word):
    """Catches a typing mistake that hangs the generator or ends in a KeyError."""
    with pytest.raises(Blip3oError, match=word):
        call()


@pytest.mark.parametrize("what", ["scenes", "text", "edits", "corruptions", "degraded"])
def test_a_contact_sheet_shows_every_image(what):
    """Catches a sheet that loses images or captions, or fails on those of another shape."""
    pictures, texts = examples(what, 32)
    page = make_contact_sheet(pictures, texts, columns=6)
    assert len(pictures) == len(texts) == 36 and all(texts)
    assert page.dtype == np.uint8 and page.shape[1] == 6 * 200 and page.shape[0] % 6 == 0
    cell = page.shape[0] // 6
    for k in range(36):
        top, left = k // 6 * cell + 4, k % 6 * 200 + 4
        height = 192 * pictures[k].shape[0] // pictures[k].shape[1]
        assert (page[top + 1, left + 1] == pictures[k][0, 0]).all()
        assert page[top + height : top + cell - 4, left : left + 192].min() < 100


def test_the_world_and_its_judge_need_no_torch():
    """Catches an import that makes every data worker and reward process load torch."""
    modules = "blip3o_core.tiny.judge.examples, blip3o_core.tiny.judge.report"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    done = python(code)
    assert done.returncode == 0, done.stderr
