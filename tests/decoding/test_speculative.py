"""Tokens that are guessed ahead are the plain loop's, whatever was guessed, with the same hidden states."""

import pytest
import torch

from benchmarks import speculative
from benchmarks.speculative import counted
from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.decoding.speculative import Lookahead, NeighbourGuess

KINDS = {"greedy": Sampling(top_k=1), "default": Sampling(), "uncut": Sampling(top_k=0, top_p=1.0, temperature=1.3)}


class Fixed:
    """Guesses that come from a list."""

    def __init__(self, ids):
        self.ids = ids

    def learn(self, known):
        pass

    def __call__(self, tokens):
        return self.ids[len(tokens)]


@pytest.fixture(scope="module")
def language():
    return open_checkpoint(BUNDLED).load_language(torch.float32)


@pytest.fixture(scope="module")
def prompts():
    encode = open_checkpoint(BUNDLED).prompt_encoder.encode
    pairs = [(one, other) for one in ("red", "blue", "green", "yellow", "white") for other in ("ring", "star")]
    return [encode(f"a {colour} {shape}{rest}") for colour, shape in pairs for rest in ("", " above a purple cross")]


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["greedy", "default", pytest.param("uncut", marks=pytest.mark.long)])
def test_ids_and_states_are_those_of_decode(language, prompts, kind, count):
    """A token accepted behind a wrong guess, a uniform number of another place, a state off by one token."""
    assert len(prompts) == 20
    for seed, prompt in enumerate(prompts[:: 20 // count]):
        plain = decode(language, Prompts([prompt]), [seed], KINDS[kind], engine="direct")
        ahead, passes = counted(language, prompt, seed, KINDS[kind], 8)
        assert torch.equal(ahead.ids, plain.ids) and ahead.lengths == plain.lengths
        assert torch.allclose(ahead.hidden, plain.hidden, atol=1e-5, rtol=1e-5)
        assert passes < plain.ids.shape[1]


@pytest.mark.parametrize("window", [1, 2, 5, 64, 100])
def test_any_window_gives_the_same(language, prompts, window):
    """A window that reaches behind the last token, or one that never moves on."""
    plain = decode(language, Prompts(prompts[:1]), [3], Sampling(), engine="direct")
    ahead, passes = counted(language, prompts[0], 3, Sampling(), window)
    assert torch.equal(ahead.ids, plain.ids) and torch.allclose(ahead.hidden, plain.hidden, atol=1e-5, rtol=1e-5)
    assert passes == 64 if window == 1 else passes < 64


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_guesses_change_nothing(language, prompts, kind):
    """Keys and values of a wrong guess that stay in the cache, or a guess taken unchecked."""
    for seed, prompt in enumerate(prompts[:2]):
        plain = decode(language, Prompts([prompt]), [seed], KINDS[kind], engine="direct")
        first, codes = language.vocabulary.image_start, language.vocabulary.num_codes
        wrong = [first + (code - first + 4001) % codes for code in plain.ids[0].tolist()]
        ahead, _ = counted(language, prompt, seed, KINDS[kind], 8, Fixed(wrong))
        assert torch.equal(ahead.ids, plain.ids)
        assert torch.allclose(ahead.hidden, plain.hidden, atol=5e-5, rtol=1e-5)  # of numbers up to 18


def test_a_model_that_cannot_be_guessed_is_hardly_slowed():
    """A window that stays wide when not one guess is right: every token at the price of sixteen."""
    fed, fresh = [], iter(range(10**6))

    def states_of(tokens, first):
        fed.append(len(tokens))
        return torch.zeros(len(tokens), 1, 1)

    def choose_from(states, first):
        return torch.tensor([next(fresh) for _ in states])

    lookahead = Lookahead(states_of, choose_from, Fixed([-1] * 65), window=16)
    lookahead.start(torch.zeros(1, 1, 1), total=64)
    while lookahead.fed < 64:
        lookahead.advance()
    assert len(lookahead.known) == 64 and lookahead.passes == 64
    assert fed[:6] == [16, 13, 10, 7, 4, 2] and set(fed[6:-1]) == {2}


@pytest.mark.parametrize(("window", "passes"), [(8, 8), (16, 4), (64, 1), (10, 7)])
def test_right_guesses_are_all_taken(language, prompts, window, passes):
    """Guesses that are checked and thrown away, or one pass too many at the end."""
    plain = decode(language, Prompts(prompts[:1]), [0], Sampling(), engine="direct")
    ahead, needed = counted(language, prompts[0], 0, Sampling(), window, Fixed(plain.ids[0].tolist()))
    assert torch.equal(ahead.ids, plain.ids) and needed == passes


def test_the_rule_that_was_right_more_often_guesses():
    """Guesses by the worse rule, or ids behind the last image token."""
    guess = NeighbourGuess(3, 99)
    assert guess([10]) == 11 and guess([99]) == 99
    guess.learn([10, 20, 30, 10, 20])
    assert guess([10, 20, 30, 10, 20]) == 30
    guess.learn([10, 20, 30, 10, 20, 21, 22, 23])
    assert guess([10, 20, 30, 10, 20, 21, 22, 23]) == 24


def test_every_token_is_told_in_order_and_a_run_can_be_cancelled(language, prompts):
    """A callback that is skipped for tokens of one pass, sees guesses, or cannot stop the run."""
    plain, seen = decode(language, Prompts(prompts[:1]), [3], Sampling(), engine="direct"), []
    ahead = decode(
        language, Prompts(prompts[:1]), [3], Sampling(), callback=lambda *each: seen.append(each), engine="speculative"
    )
    assert [(done, total, ids.shape[1]) for done, total, ids in seen] == [(k, 64, k) for k in range(1, 65)]
    assert torch.equal(seen[-1][2], ahead.ids) and torch.equal(ahead.ids, plain.ids)

    def stop(done, total, ids):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(language, Prompts(prompts[:1]), [3], Sampling(), callback=stop, engine="speculative")


@pytest.mark.long
def test_the_benchmark_compares_the_same_pictures():
    """A ratio of two different pictures, or a cost without the plain step's next to it."""
    rows = speculative.run(torch.device("cpu"), 1, quick=True)
    compared, costs = ([row for row in rows if key in row] for key in ("ratio", "break_even"))
    assert {row["sampling"] for row in compared} == {"greedy", "default"}
    assert all(row["equal_ids"] == row["images"] for row in compared)
    assert costs[0]["window"] == 1 and costs[0]["break_even"] == 1
