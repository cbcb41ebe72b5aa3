"""Marked cells as text."""

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.tokens.marks import cells_text, marks_text, parse_marks


def test_text_and_marks_are_the_same():
    """Catches a range that is one cell short, and rows taken for columns."""
    marked = parse_marks("2x5: 3-6, 8", (2, 5))
    assert marked.tolist() == [[False, False, False, True, True], [True, True, False, True, False]]
    assert marks_text(marked) == "2x5: 3-6, 8" and cells_text(marked) == "3-6, 8"
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        random = torch.rand(7, 9, generator=generator) < 0.4
        assert torch.equal(parse_marks(marks_text(random), (7, 9)), random)


@pytest.mark.parametrize("text", ["", "  ", "3x4:", "3x4: ,", "v1 3x4: "])
def test_nothing_marked(text):
    """Catches an empty widget that is refused, or that marks the first cell."""
    assert not parse_marks(text, (3, 4)).any()
    assert marks_text(parse_marks(text, (3, 4))) == ""


def test_people_may_type_it():
    """Catches a form that only a program writes: spaces, cells in any order, twice, and the version."""
    assert torch.equal(parse_marks(" v1 3x4 :11,2 - 3,2 ", (3, 4)), parse_marks("3x4: 2-3, 11", (3, 4)))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("everything", "marks is 'everything', which cannot be read. Write the grid"),
        ("3x4: 1-2-3", "cannot be read"),
        ("3x4: 1 2", "cannot be read"),
        ("3x4: -1", "cannot be read"),
        ("3x4: 1.5", "cannot be read"),
        ("3x4: ١", "cannot be read"),
        ("3x4: 12", "names the cells '12'. A grid of 3x4 has the cells 0 to 11"),
        ("3x4: 5-3", "write the smaller number first"),
        ("4x3: 1", "for a grid of 4x3 tokens, but these tokens have 3x4"),
        ("v2 3x4: 1", "of version 2; this release reads version 1"),
        ("x" * 10**6, "cannot be read"),
        ("3x4: " + "1," * 10**5 + "99999999999", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(text, sentence):
    """Catches a Python error in place of a sentence, and marks that are dropped in silence."""
    with pytest.raises(Blip3oError) as raised:
        parse_marks(text, (3, 4))
    assert sentence in str(raised.value) and len(str(raised.value)) < 300
