"""Image tokens put together from others, and compared."""

from dataclasses import replace

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import condition
from blip3o_core.tokens.compose import cells_of_mask, differing, splice


@pytest.fixture
def drafts(pipeline):
    return pipeline.generate_tokens(["a red cube", "two dogs"], [1, 2])


def half(grid) -> torch.Tensor:
    cells = torch.zeros(1, *grid, dtype=torch.bool)
    cells[:, :, grid[1] // 2 :] = True
    return cells


def test_a_splice_takes_the_cells_of_the_mask_and_nothing_else(pipeline, drafts):
    """Catches a mask that is turned around, rows mixed up, and states of codes that are no longer there."""
    base, other = drafts.row(0), drafts.row(1)
    cells = half(base.grid)
    spliced, flat = splice(base, other, cells), cells.flatten()
    assert torch.equal(spliced.codes[:, flat], other.codes[:, flat])
    assert torch.equal(spliced.codes[:, ~flat], base.codes[:, ~flat])
    assert spliced.prompts == base.prompts and spliced.hidden is None
    assert torch.equal(differing(spliced, base), cells & differing(base, other))
    condition(pipeline.language, spliced, pipeline.source)  # they are read anew


def test_a_splice_that_changes_nothing_keeps_the_hidden_states(drafts):
    """Catches a pass of the language model for tokens that are as they were."""
    base = drafts.row(0)
    assert splice(base, drafts.row(1), torch.zeros(1, *base.grid, dtype=torch.bool)) is base
    assert splice(base, base, torch.ones(1, *base.grid, dtype=torch.bool)) is base


def test_one_row_serves_several(drafts):
    """Catches a batch of which only the first row is spliced."""
    cells = half(drafts.grid)
    many = splice(drafts.row(0), drafts, cells)
    assert len(many) == 2 and many.seeds == [1, 1]
    assert torch.equal(many.codes[1], splice(drafts.row(0), drafts.row(1), cells).codes[0])
    masks = torch.cat([cells, ~cells])
    assert torch.equal(splice(drafts, drafts.row(1), masks).codes[0], splice(drafts, drafts.row(1), cells).codes[0])


def test_a_mask_of_any_size_marks_the_cells_it_touches():
    """Catches a mask that is turned, and a thin stroke that marks nothing."""
    mask = torch.zeros(1, 100, 200)
    mask[0, 99, 0] = 1
    cells = cells_of_mask(mask, (5, 10))
    assert cells.shape == (1, 5, 10) and cells.sum() == 1 and bool(cells[0, 4, 0])
    assert torch.equal(cells_of_mask(cells.float(), (5, 10)), cells)
    assert torch.equal(cells_of_mask(cells[0].float(), (5, 10)), cells)


@pytest.mark.parametrize(
    ("mask", "says"), [(torch.full((1, 4, 4), float("nan")), "mask"), (torch.ones(0, 4, 4), "empty")]
)
def test_a_mask_that_marks_nothing_by_mistake_is_named(mask, says):
    """Catches NaN that counts as unmarked: the image would pass unchanged without a word."""
    with pytest.raises(Blip3oError, match=says):
        cells_of_mask(mask, (5, 10))


def test_what_does_not_fit_together_is_refused(drafts):
    """Catches codes of two codebooks in one image, which would be noise."""
    row = drafts.row(0)
    foreign = replace(row, codes_id=replace(row.codes_id, codebook="other", num_codes=7))
    wrong = {
        "different checkpoints": (row, foreign, half(row.grid)),
        "There are 3 masks for 2 images": (drafts, drafts, half(row.grid).expand(3, -1, -1)),
        "2 rows of tokens and the second 3": (drafts, replace_rows(drafts, 3), half(row.grid)),
        "not a whole image": (row, replace(row, lengths=[3]), half(row.grid)),
    }
    for sentence, arguments in wrong.items():
        with pytest.raises(Blip3oError, match=sentence):
            splice(*arguments)


def replace_rows(tokens, count):
    first = tokens.row(0)
    return replace(
        first, codes=first.codes.expand(count, -1), prompts=first.prompts * count, seeds=first.seeds * count,
        prompt_ids=first.prompt_ids * count, lengths=first.lengths * count, hidden=None,
    )  # fmt: skip
