"""The second edition of the world and its judge: textures, words in patches, oblong images, compositions."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from blip3o_core import Blip3oError
from blip3o_core.tiny import (
    CATEGORIES,
    TEXT,
    Scene,
    World,
    caption,
    instruction,
    judge_edit,
    judge_image,
    make_edit,
    make_scene,
    may_change,
    rasterize,
    spec_after,
    spec_of,
)
from blip3o_core.tiny.judge.corruptions import MORE_CORRUPTIONS, corrupt, corruptions
from blip3o_core.tiny.judge.degradation import Degradation, degrade
from blip3o_core.tiny.judge.judge import detect
from blip3o_core.tiny.judge.report import MORE_WRONG_EDITS, NAMED_TEXTURES, true_images, true_rows
from blip3o_core.tiny.recipe.renderer import _scene
from blip3o_core.tiny.scenes.caption_reader import read_caption
from blip3o_core.tiny.scenes.captions import phrasings
from blip3o_core.tiny.scenes.edits import COMPOSE, edit_kinds, instructions
from blip3o_core.tiny.scenes.shapes import SHAPES
from blip3o_core.tiny.scenes.spec import compare, detection_of
from blip3o_core.tiny.scenes.textures import KINDS, SOLID, TEXTURES, Texture, displacement, surface
from blip3o_core.tiny.scenes.words import LETTERS
from blip3o_core.tiny.scenes.world import (
    CANVASES,
    LETTER_COUNTS,
    PALETTE,
    SECOND,
    SQUARE,
    SceneObject,
    lettered_word,
    split_of,
)

WORLD = replace(SECOND, coloured=0.4)
NAMES = (*CATEGORIES, TEXT)
SIDE = 128
SOFT = Degradation(0.69, 4.1)  # 32 dB; `blip3o recipe report` fits it
CAT = Scene(TEXT, (), word=lettered_word("CAT", "red", 2, 3))


def scenes(count: int, world: World = WORLD, categories=NAMES, split: str = "train"):
    return [make_scene(11, split, index, world, category) for category in categories for index in range(count)]


def soft(image: np.ndarray, seed: int) -> np.ndarray:
    return degrade(image, SOFT, np.random.default_rng(seed))


def test_the_first_edition_does_not_change():
    """Catches a change of the world that the bundled model was trained in: its numbers would no longer compare."""
    digest = hashlib.sha256()
    for category in NAMES:
        for index in range(6):
            scene = make_scene(4, "held_back", index, World(), category)
            digest.update(caption(scene, index).encode() + rasterize(scene).tobytes())
            edit = make_edit(4, "train", index, World())
            digest.update(instruction(edit, index).encode() + rasterize(edit.target).tobytes())
    assert digest.hexdigest()[:16] == "e967e665eebc6df3"


# ---- textures


@pytest.mark.parametrize("texture", TEXTURES, ids=str)
def test_a_texture_keeps_the_mean_colour_and_can_be_seen(texture):
    """Catches a pattern that makes a surface darker, one that leaves the range, and one too faint to be measured."""
    waves = surface(texture, SIDE, SIDE, 1.0)
    assert np.abs(waves).max() <= 1 and abs(waves.mean()) < 0.05 and np.abs(waves).mean() > 0.4
    for name, colour in PALETTE.items():
        line = displacement(colour)
        assert (np.array(colour) - line >= 0).all() and (np.array(colour) + line <= 255).all()
        assert bool(line.any()) == (name != "white")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_texture_is_read_on_every_shape_and_on_the_ground(shape):
    """Catches two textures that the judge takes for one, or a shape too thin to show its own."""
    for index, texture in enumerate(TEXTURES):
        for radius in (16, 24):
            ground = TEXTURES[(5 * index + radius) % len(TEXTURES)]
            obj = SceneObject(shape, "pink" if index % 2 else "red", 64, 56, radius, texture)
            image = rasterize(Scene("", (obj,), "cyan", texture=ground), SIDE)
            seen = detect(soft(image, index), textures=True)
            assert seen.texture == ground.kind
            assert [(one.shape, one.texture) for one in seen.objects] == [(shape, texture.kind)], texture
        plain = detect(rasterize(Scene("", (replace(obj, texture=SOLID),), "cyan"), SIDE), textures=True)
        assert plain.texture == plain.objects[0].texture == "solid"


def test_textures_are_named_in_half_of_the_captions_and_only_what_is_named_is_asked_for():
    """Catches a caption that loses a texture it should name, and a judge that asks for one that nobody named."""
    textured = [
        scene for scene in scenes(60) if scene.texture != SOLID or any(obj.texture != SOLID for obj in scene.objects)
    ]
    named = [scene for scene in textured if scene.textures_named]
    assert 0.4 < len(named) / len(textured) < 0.6
    for scene in textured:
        assert spec_of(scene).textured == scene.textures_named
        plain = replace(scene, texture=SOLID, objects=tuple(replace(obj, texture=SOLID) for obj in scene.objects))
        assert compare(detection_of(plain), spec_of(scene)).strict == (not scene.textures_named)
    scene = Scene("colors", (SceneObject("circle", "red", 64, 64, 20, TEXTURES[0]),), "grey", texture=TEXTURES[4])
    assert caption(replace(scene, textures_named=True)) == "a striped red circle on a dotted grey background"
    assert caption(scene) == "a red circle"


def test_a_named_texture_is_the_first_of_its_kind_and_others_are_any():
    """Catches a caption that leaves open which stripes it means, and references that are all alike."""
    of_training = [_scene(index, WORLD) for index in range(200)]
    used = {True: set(), False: set()}
    for scene in scenes(60) + of_training:
        used[scene.textures_named] |= {scene.texture, *(obj.texture for obj in scene.objects)}
    assert used[True] == {SOLID, *map(Texture, KINDS)}
    assert used[False] == {SOLID, *TEXTURES}
    assert 0.6 < sum(scene.textures_named for scene in of_training) / len(of_training) < 0.85


# ---- words


def test_words_of_the_splits_are_different_and_letters_lie_in_patches():
    """Catches a held-back word that was trained on elsewhere in the image, and a letter across two patches."""
    words = {split: {s.word.text for s in scenes(80, WORLD, (TEXT,), split)} for split in ("train", "held_back")}
    assert not words["train"] & words["held_back"]
    letters = Counter("".join(words["train"]))
    assert set(letters) == set(LETTERS) and {len(word) for word in words["train"]} == set(range(2, 7))
    assert LETTER_COUNTS == (2, 6)
    for scene in scenes(20, WORLD, (TEXT,)):
        covered = (rasterize(replace(scene, objects=()), SIDE) != PALETTE[scene.background]).any(-1)
        patches = covered.reshape(8, 16, 8, 16).any((1, 3))
        assert patches.sum() == len(scene.word.text) and patches.any(1).sum() == 1
        assert split_of(scene) == split_of(replace(scene, background="white", objects=()))


def test_a_word_is_read_beside_an_object_and_must_be_exact():
    """Catches a word that swallows an object, an object that goes uncounted, and letters in the wrong order."""
    star = SceneObject("star", "blue", 64, 100, 16, TEXTURES[0])
    both = replace(CAT, objects=(star,))
    spec = spec_of(both)
    assert caption(both) == 'the word "CAT" in red and a blue star'
    for image in (rasterize(both, SIDE), soft(rasterize(both, SIDE), 0), rasterize(both, 256)):
        assert judge_image(image, spec).strict
    for wrong, reason in (
        (replace(both, word=lettered_word("ACT", "red", 2, 3)), '"ACT" instead of "CAT", 2 letters off'),
        (replace(both, word=lettered_word("CAT", "green", 2, 3)), "the word is green, not red"),
        (replace(both, objects=()), "no objects instead of 1"),
        (replace(both, word=None), 'no word instead of "CAT"'),
    ):
        assert reason in judge_image(rasterize(wrong, SIDE), spec).reasons
    alone = judge_image(rasterize(both, SIDE), spec_of(CAT))
    assert not alone.strict and "1 object instead of 0" in alone.reasons and alone.letters_off == 0


def test_every_letter_is_read_back():
    """Catches look-alikes at two pixels to the font's pixel."""
    for colour, ground in (("red", "grey"), ("yellow", "blue"), ("pink", "grey")):
        for first in range(0, 26, 5):
            text = (LETTERS + LETTERS)[first : first + 5]
            image = rasterize(Scene(TEXT, (), ground, lettered_word(text, colour, 1, 1 + first % 6)), SIDE)
            for seen in (detect(image, word=True).word, detect(soft(image, first), word=True).word):
                assert (seen.text, seen.colour) == (text, colour)


# ---- shapes of images


def test_images_of_every_shape_are_drawn_named_and_judged():
    """Catches a canvas that is drawn transposed, or that the judge scales like a square."""
    for word, canvas in CANVASES.items():
        scene = Scene("colors", (SceneObject("circle", "red", 48, 48, 20),), canvas=canvas)
        image = rasterize(scene, SIDE)
        assert image.shape == (canvas[1], canvas[0], 3) and caption(scene) == f"a {word} image of a red circle"
        assert judge_image(image, spec_of(scene)).strict
        assert judge_image(rasterize(scene, 256), spec_of(scene)).strict
        square = judge_image(rasterize(replace(scene, canvas=SQUARE), SIDE), spec_of(scene))
        assert square.reasons == (f"the image is 128x128, not {word}",)
    made = [scene for scene in scenes(40) if scene.canvas != SQUARE]
    assert {scene.canvas for scene in made} == set(CANVASES.values())
    assert all(
        obj.x % (scene.canvas[0] / 16) == obj.y % (scene.canvas[1] / 16) == 0 for scene in made for obj in scene.objects
    )


# ---- the judge


@pytest.mark.parametrize("row", true_rows(WORLD))
def test_true_images_are_right_crisp_and_soft(row):
    """Catches a threshold that textures, letters or oblong images do not pass."""
    for index, (image, judge) in enumerate(true_images(row, 8, SIDE, 5, WORLD)):
        for seen in (image, soft(image, index)):
            verdict = judge(seen)
            assert verdict.strict and verdict.layout and verdict.credit == 1, (row, index, verdict.reasons)


@pytest.mark.parametrize("corruption", MORE_CORRUPTIONS)
def test_each_corruption_is_caught_crisp_and_soft(corruption):
    """Catches a judge that is blind to one way of being wrong."""
    assert corruption in corruptions(WORLD) and corruption not in corruptions(World())
    done = 0
    for index in range(300):
        scene = make_scene(200, "train", index, WORLD, NAMES[index % 9])
        wrong = corrupt(scene, corruption, index)
        if wrong is not None and done < 12:
            done += 1
            for image in (rasterize(wrong, SIDE), soft(rasterize(wrong, SIDE), index)):
                verdict = judge_image(image, spec_of(scene))
                assert not verdict.strict and verdict.reasons and verdict.credit < 0.99, (corruption, index)
    assert done >= 8


def test_every_phrasing_says_what_the_scene_shows():
    """Catches a texture, a word or a shape of the image that a person's prompt asks for and the judge does not."""
    for scene in scenes(6):
        wanted = spec_of(scene)
        for text in phrasings(scene):
            read = read_caption(text)
            assert read is not None and Counter(read.objects) == Counter(wanted.objects), text
            for name in ("background", "texture", "word", "word_colour", "canvas"):
                assert getattr(read, name) == getattr(wanted, name), text


# ---- edits


@pytest.mark.parametrize("kind", edit_kinds(WORLD))
def test_edits_are_right_when_done_and_textures_that_were_lost_are_measured(kind):
    """Catches a mask that leaves out textures, one of another shape, and an error that textures do not move."""
    lost = []
    for index in range(12):
        edit = make_edit(7, "train", index, WORLD, kind)
        target = rasterize(edit.target, SIDE)
        assert may_change(edit, SIDE).shape == target.shape[:2]
        verdict = judge_edit(target, edit)
        assert verdict.strict and verdict.credit == 1 and verdict.outside == 0 and verdict.surfaces in (0, None)
        assert judge_edit(soft(target, index), edit).strict
        assert judge_edit(rasterize(edit.source, SIDE), edit).strict == (kind == "keep")
        plain = replace(
            edit.target, texture=SOLID, objects=tuple(replace(obj, texture=SOLID) for obj in edit.target.objects)
        )
        if verdict.surfaces is not None:
            lost.append(judge_edit(rasterize(plain, SIDE), edit).surfaces)
        for text in instructions(edit):
            assert not any(word in text for word in ("striped", "dotted", "checked", "shaded", "grainy"))
    assert lost and min(lost) > 4  # a gradient on a small object; most lose 10 and more


def test_a_composition_takes_an_object_of_each_image():
    """Catches a composition whose objects touch, come from one image, or lose their textures or their places."""
    for index in range(30):
        edit = make_edit(3, "held_back", index, WORLD, COMPOSE)
        first, second = edit.target.objects
        assert first == edit.sources[0].objects[edit.index] and second == edit.sources[1].objects[edit.second_index]
        assert edit.target.texture == SOLID and spec_after(edit).background == edit.target.background
        assert all(split_of(scene) == "held_back" for scene in edit.sources)
        text = instruction(edit, plain=True)
        assert f"{first.shape} of image 1" in text and f"{second.shape} of image 2" in text
        assert f"{edit.target.background} background" in text
        kept = rasterize(edit.target, SIDE)[~may_change(edit, SIDE)]  # the insides of both objects, and no background
        assert len(kept) > 150 and (kept != PALETTE[edit.target.background]).any(-1).all()
    assert COMPOSE not in edit_kinds(World())


@pytest.mark.parametrize("mistake", MORE_WRONG_EDITS)
def test_a_wrong_edit_is_caught(mistake):
    """Catches a judge of compositions that any two objects satisfy, and of edits that a lost texture does."""
    done = 0
    for index in range(120):
        kinds = edit_kinds(WORLD)
        edit = make_edit(8, "train", index, WORLD, kinds[index % len(kinds)])
        wrong = MORE_WRONG_EDITS[mistake](edit)
        if wrong is not None:
            done += 1
            assert not judge_edit(rasterize(wrong, SIDE), edit).strict
    assert done >= 5


def test_an_edited_image_of_another_shape_is_refused():
    """Catches a crash deep in numpy."""
    edit = next(
        edit
        for edit in (make_edit(0, "train", index, replace(WORLD, oblong=1.0), "keep") for index in range(20))
        if edit.target.canvas == CANVASES["wide"]
    )
    with pytest.raises(Blip3oError, match="192:96"):
        judge_edit(np.zeros((128, 128, 3), np.uint8), edit)


def test_rows_of_the_report_are_those_of_the_world():
    """Catches a table of the first edition with rows that its world cannot fill."""
    assert NAMED_TEXTURES in true_rows(WORLD) and NAMED_TEXTURES not in true_rows(World())
    assert set(CANVASES) <= set(true_rows(WORLD)) and not set(CANVASES) & set(true_rows(World()))
    with pytest.raises(Blip3oError, match="textured is 2"):
        World(textured=2)
