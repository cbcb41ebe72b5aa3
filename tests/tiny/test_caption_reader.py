"""Captions are read back as what they were written from."""

import pytest

from blip3o_core.tiny.scenes.caption_reader import read_caption
from blip3o_core.tiny.scenes.captions import OPPOSITES, phrasings
from blip3o_core.tiny.scenes.spec import Expected, Spec, spec_of
from blip3o_core.tiny.scenes.world import CATEGORIES, TEXT, World, make_scene


def plain(spec: Spec) -> tuple:
    """Whatever the order of the objects, and whichever of the two a relation starts from."""
    related = spec.relation and [
        (str(spec.objects[a]), word, str(spec.objects[b]))
        for a, word, b in ((0, spec.relation[1], 1), (1, OPPOSITES[spec.relation[1]], 0))
    ]
    return sorted(map(str, spec.objects)), spec.background, related and sorted(related), spec.word, spec.word_colour


@pytest.mark.parametrize("category", [*CATEGORIES, TEXT])
def test_every_phrasing_says_what_the_scene_shows(category):
    """Catches a wording that is read as other objects, or not at all, so that right images are judged wrong."""
    for index in range(12):
        scene = make_scene(3, "train", index, World(), category)
        for text in phrasings(scene):
            read = read_caption(text)
            assert read is not None and plain(read) == plain(spec_of(scene)), text


LEFT = (0, "left of", 1)
ORDINARY = Spec((Expected("circle", "red"), Expected("star", "blue")), "grey", LEFT)
SMALL = Spec((Expected("circle", "red", "small"), Expected("star", "blue", "small")), "grey", LEFT)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A Red Circle left of a Blue Star.", ORDINARY),
        ("a small red circle left of a small blue star", SMALL),
        ("two rings and a green cross", Spec((Expected("ring"), Expected("ring"), Expected("cross", "green")))),
        ("a white cat on a sofa", None),
        ("", None),
        ("a circle and a cat", None),
        ("make the circle blue", None),
        ('the word "A" and "B" in red', None),
        ("four circles and four stars", None),
        ("two circles left of a star", None),
        ("a circle " * 500, None),
    ],
)
def test_prompts_of_people_are_read_or_left_alone(prompt, expected):
    """Catches a judge that makes up what a prompt asks for, and one that takes a capital letter for another word."""
    assert read_caption(prompt) == expected
