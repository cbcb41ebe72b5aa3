"""`choose` against transformers' warpers: exact probabilities over a fine grid of uniforms, no sampling noise."""

import pytest
import torch

from blip3o_core.decoding.sampling import Sampling, _choose_among_few, _choose_sorted, choose
from blip3o_core.errors import Blip3oError

GRID = 5_000
UNIFORMS = (torch.arange(GRID, dtype=torch.float64) + 0.5).div(GRID).float()
LAST = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))


def logits(seed: int, size: int = 50, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) * scale


def expected(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities after transformers' warpers, in the order of its generate()."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = TemperatureLogitsWarper(float(sampling.temperature))(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    return TopPLogitsWarper(sampling.top_p)(None, scores).softmax(-1)[0]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.2, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("top_k", [0, 2, 7, 49, 50, 1200])
def test_the_distribution_is_that_of_transformers_warpers(top_k, top_p, temperature):
    """Catches top-p before top-k, a token too many or too few at either cut, and a temperature at the wrong place."""
    sampling = Sampling(top_k, top_p, temperature)
    for seed in range(3):
        scores = logits(seed)
        picked = choose(scores.expand(GRID, -1), UNIFORMS, sampling)
        shares = torch.bincount(picked, minlength=scores.shape[1]) / GRID
        wanted = expected(scores, sampling)
        assert (shares - wanted).abs().max() <= 2 / GRID
        assert not shares[wanted == 0].any(), "a token that the warpers remove was chosen"
        assert shares[wanted > 2 / GRID].all(), "a token that the warpers keep is never chosen"


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0, 1.0), Sampling(5, 0.5), Sampling(3, 1.0, 0.1)], ids=str)
def test_the_ends_of_the_interval_choose_a_token_that_may_be_chosen(sampling):
    """Catches an index past the kept tokens when the cumulative sum falls short of 1 by rounding."""
    for seed in range(50):
        scores = logits(seed, size=363, scale=4.0)
        wanted = expected(scores, sampling)
        for uniform in (torch.zeros(1), LAST.reshape(1)):
            assert wanted[choose(scores, uniform, sampling)] > 0
        if sampling.top_k or sampling.top_p < 1:  # else nothing is sorted
            assert choose(scores, torch.zeros(1), sampling) == scores.argmax()


@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(temperature=0), Sampling(1, 0.3, 0.0)], ids=str)
def test_greedy_is_the_argmax_whatever_the_uniform(sampling):
    """Catches a greedy setting that divides by a temperature of zero or still looks at the seed."""
    for seed in range(20):
        scores = logits(seed)
        picked = choose(scores.expand(GRID, -1), UNIFORMS, sampling)
        assert (picked == scores.argmax()).all()


def test_rows_are_chosen_alone():
    """Catches a row whose token depends on its neighbours' logits or uniforms."""
    scores, uniforms = torch.cat([logits(seed) for seed in range(40)]), torch.linspace(0, 0.99, 40)
    together = choose(scores, uniforms, Sampling(9, 0.9))
    assert together.tolist() == [
        int(choose(scores[k : k + 1], uniforms[k : k + 1], Sampling(9, 0.9))) for k in range(40)
    ]
    assert len(set(together.tolist())) > 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": float("nan")}, {"temperature": -0.1},
        {"temperature": float("nan")}, {"temperature": float("inf")}, {"guidance": 0.5}, {"guidance": float("nan")},
        {"guidance": float("inf")}, {"guidance": 1e39},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    """Catches settings that would empty the set of tokens, or compute NaN and draw token 0 throughout."""
    [(name, value)] = wrong.items()
    with pytest.raises(Blip3oError, match=name) as caught:
        Sampling(**wrong)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-46, 1e-7])
def test_a_temperature_of_almost_nothing_is_greedy(temperature):
    """Catches logits that overflow when they are divided by it."""
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    chosen = choose(logits, torch.tensor([0.1, 0.5, 0.9]), Sampling(temperature=temperature))
    assert torch.equal(chosen, logits.argmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [0, 1200])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.999])
def test_the_likeliest_few_decide_exactly_as_all_survivors_do(top_k, top_p):
    """A shortcut that ends the nucleus a token off: total mass taken for the survivors', or of the few alone."""
    sampling, decided, uniforms = Sampling(top_k, top_p), 0, UNIFORMS[::10]
    for seed, scale in enumerate((0.5, 2.0, 4.0, 8.0, 8.0, 20.0)):
        scores = logits(seed, size=3000, scale=scale).expand(len(uniforms), -1)
        picked, undecided = _choose_among_few(scores, uniforms, top_p)
        wanted = _choose_sorted(scores, uniforms, sampling)
        assert torch.equal(picked[~undecided], wanted[~undecided])
        assert torch.equal(choose(scores, uniforms, sampling), wanted)
        decided += not bool(undecided.any())
    assert 0 < decided < 6, "the scales must show both ways"


def test_equal_logits_may_change_places_and_nothing_else():
    """A shortcut that, among logits rounded to bfloat16, picks a token of another probability."""
    sampling = Sampling()
    scores = logits(3, size=3000, scale=4.0).bfloat16().float().expand(GRID, -1)
    assert scores[0].unique().numel() < 3000
    picks = [choose(scores, UNIFORMS, sampling, shortcut=shortcut) for shortcut in (True, False)]
    assert torch.equal(*(scores.gather(1, pick[:, None]) for pick in picks))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(5, 0.5), Sampling(0, 1.0), Sampling(top_k=1)], ids=str)
def test_what_is_not_finite_still_gives_an_index(sampling):
    """An index of -1, which ends the process on a GPU before the check of the states can give the reason."""
    scores = torch.full((2, 300), float("nan"))
    assert bool(((choose(scores, UNIFORMS[:2], sampling) >= 0) & (choose(scores, UNIFORMS[:2], sampling) < 300)).all())
