"""Colours that show image tokens while they are written."""

import pytest
import torch

from blip3o_core.tokens import code_colours, mosaic


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
