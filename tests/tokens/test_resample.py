"""Some tokens written anew: what changes, what stays, and that the new ones are those of a whole run."""

from dataclasses import replace

import pytest
import torch

from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline, condition
from blip3o_core.tokens.compose import from_token
from blip3o_core.tokens.generate import Request
from blip3o_core.tokens.resample import Anew, resample_tokens, runs
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

PROMPTS, SEEDS = ["a", "a red cube on a blue table", "two dogs"], [3, 5, 2**64 - 1]


@pytest.fixture
def tokens(pipeline):
    return pipeline.generate_tokens(PROMPTS, SEEDS)


@pytest.fixture
def resample(pipeline):
    def run(tokens, marked, seeds, callback=None, **more):
        return resample_tokens(pipeline.language, pipeline.encoder, Anew(tokens, marked, seeds, **more), callback)

    return run


def marks(tokens, *cells) -> torch.Tensor:
    """(1, H, W), True in these places of the row-major grid."""
    flat = torch.zeros(tokens.grid[0] * tokens.grid[1], dtype=torch.bool)
    flat[list(cells)] = True
    return flat.view(1, *tokens.grid)


@pytest.mark.parametrize("first", [0, 1, 7, 24, 25])
def test_resuming_with_the_same_seed_gives_the_same_tokens(first, tokens, resample):
    """Catches numbers that are drawn from the start again, so that a resumed image differs from the whole run."""
    again = resample(tokens, from_token(first, tokens.grid), SEEDS)
    assert torch.equal(again.codes, tokens.codes)
    assert (again is tokens) == (first == 25)


def test_only_marked_cells_change_and_the_rest_stays(tokens, resample):
    """Catches a region that spills into its neighbours, and a brush that writes nothing."""
    marked = marks(tokens, 6, 7, 11, 12)
    changed = resample(tokens, marked, [100, 101, 102])
    flat = marked.flatten()
    assert torch.equal(changed.codes[:, ~flat], tokens.codes[:, ~flat])
    assert not torch.equal(changed.codes[:, flat], tokens.codes[:, flat])
    assert changed.seeds == [100, 101, 102] and changed.prompts == PROMPTS and changed.hidden is None


def test_a_marked_cell_gets_what_a_run_with_this_prefix_and_seed_gives(pipeline, tokens, resample):
    """Catches cells that see what stood there before, or a number of another place of the grid."""
    changed = resample(tokens, marks(tokens, 6, 7, 17), [9, 10, 11])
    start = pipeline.language.vocabulary.image_start
    for first, count in ((6, 2), (17, 1)):
        for row, seed in enumerate([9, 10, 11]):
            prefix = changed.codes[row : row + 1, :first] + start
            whole = decode(pipeline.language, Prompts([tokens.prompt_ids[row]], written=prefix), [seed])
            assert torch.equal(whole.ids[0, :count] - start, changed.codes[row, first : first + count])


def test_each_row_has_its_own_marks(tokens, resample):
    """Catches one row's marks on all rows, a row without marks that is written, and a row that depends on others."""
    marked = torch.cat([marks(tokens, 3, 4), marks(tokens), marks(tokens, 20)])
    changed = resample(tokens, marked, [7, 8, 9])
    assert torch.equal(changed.codes[1], tokens.codes[1]) and changed.seeds == [7, SEEDS[1], 9]
    for row in (0, 2):
        alone = resample(tokens.row(row), marked[row : row + 1], [[7, 8, 9][row]])
        assert torch.equal(alone.codes[0], changed.codes[row])


def test_hidden_states_are_read_anew(pipeline, tokens, resample):
    """Catches an image that is rendered from the states of the codes before the change."""
    changed = resample(tokens, marks(tokens, 2), [77, 78, 79])
    fresh = condition(pipeline.language, replace(changed, hidden=None), pipeline.source)
    assert torch.equal(condition(pipeline.language, changed, pipeline.source).positive, fresh.positive)
    assert not torch.equal(fresh.positive, condition(pipeline.language, tokens, pipeline.source).positive)


def test_marked_cells_may_follow_another_prompt(pipeline, tokens, resample):
    """Catches a new prompt, or a negative one, that is dropped."""
    marked, seeds = from_token(5, tokens.grid), [1, 1, 1]
    request = Request(["a green dog"] * 3, seeds)
    other = resample(tokens, marked, seeds, request=request)
    assert other.prompts == ["a green dog"] * 3
    assert other.prompt_ids == [pipeline.encoder.encode("a green dog")] * 3
    assert not torch.equal(other.codes, resample(tokens, marked, seeds).codes)
    assert torch.equal(other.codes[:, :5], tokens.codes[:, :5])
    guided = resample(tokens, marked, seeds, request=request, sampling=Sampling(guidance=3.0))
    assert not torch.equal(guided.codes, other.codes)
    negative_only = Request([], [], "two dogs")
    own = resample(tokens, marked, seeds, request=negative_only, sampling=Sampling(guidance=3.0))
    same = resample(tokens, marked, seeds, request=Request(PROMPTS, seeds, "two dogs"), sampling=Sampling(guidance=3.0))
    assert torch.equal(own.codes, same.codes) and own.prompt_ids == tokens.prompt_ids


def test_progress_counts_the_marked_cells_and_cancelling_changes_nothing(tokens, resample):
    """Catches a bar that runs over the whole grid, previews without the kept cells, and codes changed in place."""
    seen, before = [], tokens.codes.clone()
    marked = marks(tokens, 3, 4, 20)
    changed = resample(
        tokens, marked, [7, 8, 9], lambda done, total, codes: seen.append((done, total, codes().clone()))
    )
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(seen[-1][2], changed.codes)

    def cancel(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resample(tokens, marked, [7, 8, 9], cancel)
    assert torch.equal(tokens.codes, before)


def test_what_cannot_be_written_anew_is_refused(tokens, resample, pipeline):
    """Catches marks of another grid that are stretched in silence, and rows that ended early."""
    wrong = {
        "one for each token": lambda: resample(tokens, torch.ones(1, 4, 5, dtype=torch.bool), SEEDS),
        "must be bool": lambda: resample(tokens, torch.ones(1, 5, 5), SEEDS),
        "one seed for each row": lambda: resample(tokens, marks(tokens, 1), [1]),
        "vocabulary is 'full'": lambda: resample(
            tokens, marks(tokens, 1), SEEDS, sampling=Sampling(image_tokens_only=False)
        ),
        "Row 1 of the tokens is not a whole image": lambda: resample(
            replace(tokens, lengths=[25, 20, 25]), marks(tokens, 1), SEEDS
        ),
        "needs a request": lambda: resample(tokens, marks(tokens, 1), SEEDS, sampling=Sampling(guidance=2.0)),
        "one for each": lambda: resample(tokens, marks(tokens, 1), SEEDS, request=Request(["a"], [0])),
    }
    for sentence, run in wrong.items():
        with pytest.raises(Blip3oError, match=sentence):
            run()


def test_runs_of_marked_cells():
    """Catches a run that is cut or joined at the ends of the grid."""
    assert list(runs(torch.tensor([True, True, False, True, False, False, True]))) == [(0, 2), (3, 1), (6, 1)]
    assert list(runs(torch.zeros(3, dtype=torch.bool))) == []


@pytest.mark.parametrize("edit", [("use_und_image_vae",), ("use_und_image_vae", "use_tar_siglip_features")], ids=len)
def test_an_edit_is_resumed_with_its_reference(edit, tmp_path):
    """Catches a reference that is lost, or whose features shift by the tokens that are given."""
    from PIL import Image

    editor = Pipeline.load(make_checkpoint(tmp_path / "model", edit=edit, sizes=Sizes(prompt_limit=300)))
    references = editor.references([Image.radial_gradient("L").convert("RGB").resize((96, 96))])
    written = editor.generate_tokens(["make it blue"], [7], references=references)
    anew = Anew(written, from_token(9, written.grid), [7])
    again = resample_tokens(editor.language, editor.encoder, anew)
    assert torch.equal(again.codes, written.codes) and again.features is written.features
    assert (written.features is not None) == (len(edit) == 2)
