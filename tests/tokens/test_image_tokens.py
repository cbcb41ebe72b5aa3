"""Image tokens as a batch."""

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.prompts.vocabulary import CodesId
from blip3o_core.tokens.image_tokens import ImageTokens


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
