"""Hidden states -> cross-attention tokens, the null condition, and when the language model reads the tokens again."""

from dataclasses import replace

import pytest
import torch

from blip3o_core import pipeline as acts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.errors import Blip3oError


@pytest.fixture
def tokens(pipeline):
    return pipeline.generate_tokens(["a red cube", "a"], [0, 1])


@pytest.fixture
def reads(monkeypatch):
    """Counts the passes over the tokens; the results are the real ones."""
    calls, real = [], acts.encode_tokens

    def counted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(acts, "encode_tokens", counted)
    return calls


def by_hand(tensors, hidden):
    """The connector from the file's tensors in double precision: Linear, GELU (tanh), Linear, RMSNorm."""
    name = "model.diffusion_connector.{}".format
    weights = {key: tensors[name(key)].double() for key in ("0.weight", "0.bias", "2.weight", "2.bias", "3.weight")}
    x = hidden.double() @ weights["0.weight"].T + weights["0.bias"]
    x = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    x = x @ weights["2.weight"].T + weights["2.bias"]
    return (x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights["3.weight"]).float()


def test_positive_and_null_follow_the_formula(pipeline, language, tokens, tensors):
    """Catches another GELU, another epsilon, and a null condition of plain zeros."""
    made = acts.condition(language, tokens, pipeline.source)
    torch.testing.assert_close(made.positive, by_hand(tensors, tokens.hidden), rtol=1e-5, atol=1e-5)
    null = by_hand(tensors, torch.zeros(1, 1, language.config.hidden_size))
    torch.testing.assert_close(made.negative, null.expand_as(made.positive), rtol=1e-5, atol=1e-5)
    assert made.negative.abs().max() > 0.1
    assert made.positive.shape == made.negative.shape == (2, 1 + language.num_tokens, 40)


def test_the_norm_of_a_new_connector_starts_where_the_authors_start_it():
    """Catches a fresh connector whose output is sqrt(5.5) times too small."""
    from blip3o_core.models.connector import build_connector

    out = build_connector(8, 12)(torch.randn(50, 8))
    torch.testing.assert_close(out.pow(2).mean(-1), torch.full((50,), 5.5), rtol=1e-2, atol=1e-2)


def test_carried_states_are_used_when_their_source_matches(pipeline, language, tokens, reads):
    """Catches a second pass over every picture, and states recomputed to something else."""
    carried = acts.condition(language, tokens, pipeline.source)
    assert not reads
    fresh = acts.condition(language, replace(tokens, hidden=None), pipeline.source)
    assert len(reads) == 1
    torch.testing.assert_close(carried.positive, fresh.positive, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["another checkpoint", None])
def test_carried_states_of_other_weights_are_not_used(source, pipeline, language, tokens, reads):
    """Catches states of the unpatched model conditioning a picture after a LoRA was put on."""
    stale = replace(tokens, hidden=torch.full_like(tokens.hidden, 9.0))
    made = acts.condition(language, stale, source)
    assert len(reads) == 1
    expected = acts.condition(language, tokens, pipeline.source).positive
    torch.testing.assert_close(made.positive, expected, rtol=1e-4, atol=1e-5)


def test_states_without_a_source_are_not_trusted(language, tokens, reads):
    """Catches None == None taken for the same weights."""
    acts.condition(language, replace(tokens, hidden_source=None), None)
    assert len(reads) == 1


def test_the_source_names_weights_and_precision(pipeline, checkpoint, copy):
    """Catches bf16 states reused by a float32 model, or those of a file that was replaced since."""
    half = acts.Pipeline(checkpoint, dtype=torch.bfloat16)
    assert half.source != pipeline.source
    copy.edit_tensors(lambda tensors: tensors["model.norm.weight"].mul_(2))
    assert acts.Pipeline.load(copy.folder).source != pipeline.source


def test_tokens_of_another_vocabulary_are_refused(pipeline, language, tokens):
    """Catches codes of one codebook rendered by a model that means other pictures by them."""
    with pytest.raises(Blip3oError) as caught:
        other = replace(language.codes_id, num_codes=97)
        acts.condition(language, replace(tokens, codes_id=other), pipeline.source)
    assert str(other) in str(caught.value) and str(language.codes_id) in str(caught.value)


def test_a_row_that_ended_early_is_masked(pipeline, language, monkeypatch):
    """Catches the padding behind an early end attended to, and a padded row that differs from its single run."""
    free = Sampling(top_k=0, top_p=1.0, image_tokens_only=False)
    monkeypatch.setattr(language, "vocabulary", replace(language.vocabulary, stop=()))
    ids = pipeline.generate_tokens(["a red cube", "a"], [0, 1], free).codes + language.vocabulary.image_start
    stop = next(int(id) for id in ids[0] if id not in ids[1])
    monkeypatch.setattr(language, "vocabulary", replace(language.vocabulary, stop=(stop,)))
    both = pipeline.generate_tokens(["a red cube", "a"], [0, 1], free)
    made = acts.condition(language, both, pipeline.source)
    assert made.mask is not None and made.mask.sum(1).tolist() == [1 + length for length in both.lengths]
    alone = acts.condition(language, pipeline.generate_tokens(["a red cube"], [0], free), pipeline.source)
    assert alone.mask is None
    torch.testing.assert_close(made.positive[:1][made.mask[:1]], alone.positive[0], rtol=1e-5, atol=1e-5)


def test_tokens_that_do_not_fit_their_grid_are_refused(tokens):
    """Catches a hand-made or damaged batch whose rows and context disagree."""
    for change in ({"seeds": [1]}, {"lengths": [1, 2, 3]}, {"grid": (2, 2)}, {"codes": tokens.codes[0]}):
        with pytest.raises(Blip3oError, match="grid"):
            replace(tokens, **change)
