"""Image tokens as a batch, and the colours that show them while they are written."""

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.prompts.vocabulary import CodesId
from blip3o_core.tokens.colours import code_colours, mosaic
from blip3o_core.tokens.image_tokens import ImageTokens


def test_similar_codes_get_similar_colours():
    """Catches colours drawn at random, all alike, or other ones at every start."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.randn(8, 24, generator=generator)
    embedding = kinds.repeat_interleave(12, 0) + 0.01 * torch.randn(96, 24, generator=generator)
    colours = code_colours(embedding)
    assert colours.shape == (96, 3) and colours.dtype == torch.uint8
    assert torch.equal(colours, code_colours(embedding))
    groups = colours.float().view(8, 12, 3)
    assert groups.std(1).max() < 5 < groups.mean(1).std(0).min()


def test_colours_do_not_touch_the_global_generator():
    """Catches a preview that changes other nodes' random numbers."""
    before = torch.random.get_rng_state()
    code_colours(torch.ones(4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("done", [0, 1, 7, 15])
def test_a_mosaic_shows_what_is_written_row_by_row(done):
    """Catches a preview that is transposed, mixes up rows of a batch, or fails on a text token."""
    colours = torch.arange(1, 31, dtype=torch.uint8).view(10, 3)
    codes = torch.randint(10, (2, 15), generator=torch.Generator().manual_seed(0))[:, :done]
    codes[:, :1] = -200
    picture = mosaic(codes, colours, (3, 5))
    assert picture.shape == (3, 10, 3)
    for row in range(2):
        for place in range(15):
            shown = picture[place // 5, row * 5 + place % 5]
            wanted = colours[codes[row, place].clamp(0)] if place < done else torch.zeros(3, dtype=torch.uint8)
            assert torch.equal(shown, wanted)


@pytest.mark.parametrize(("rows", "shape"), [(1, (3, 5, 3)), (9, (6, 40, 3)), (64, (24, 40, 3)), (2000, (24, 40, 3))])
def test_a_mosaic_of_many_rows_stays_near_a_square(rows, shape):
    """Catches a strip so long that it has no height when it is made small, which ends a server that sends it."""
    colours = torch.arange(30, dtype=torch.uint8).view(10, 3)
    codes = torch.randint(10, (rows, 15), generator=torch.Generator().manual_seed(0))
    picture = mosaic(codes, colours, (3, 5))
    assert picture.shape == shape
    if rows >= 9:
        assert torch.equal(picture[3:6, :5], colours[codes[8]].view(3, 5, 3))


def tokens(codes) -> ImageTokens:
    rows = len(codes)
    return ImageTokens(codes, (2, 2), ["a"] * rows, [[1]] * rows, list(range(rows)), [4] * rows, CodesId())


def test_rows_count_from_both_ends_and_no_further():
    """Catches row(-1) and row(9), which gave an empty batch without a word."""
    batch = tokens(torch.arange(12).view(3, 4))
    assert batch.row(-1).codes.tolist() == [[8, 9, 10, 11]] == batch.row(2).codes.tolist() and batch.row(-1).seeds == [
        2
    ]
    for index in (3, -4, 99):
        with pytest.raises(Blip3oError, match=rf"Row {index} does not exist: there are 3 rows, 0 to 2\."):
            batch.row(index)


@pytest.mark.parametrize("codes", [torch.zeros(1, 4), torch.zeros(0, 4, dtype=torch.int64), [[1, 2, 3, 4]], None])
def test_codes_of_another_kind_are_refused(codes):
    """Catches tokens that fail far from where they were made, or make an empty image."""
    with pytest.raises((Blip3oError, TypeError)) as caught:
        tokens(codes)
    assert codes is None or "int64" in str(caught.value)
