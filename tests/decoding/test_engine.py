"""The decode engine: what is drawn, its hidden states, rows against single runs, stops, guidance, cancelling."""

import copy
from dataclasses import replace

import pytest
import torch

from blip3o_core.compat import encode_tokens_unmasked
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts, encode_tokens, own_positions
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import condition
from blip3o_core.tokens.generate import Request, generate_tokens

PROMPTS = ["a", "a red cube on a blue table", "two dogs", "a much longer prompt, so that the others are padded a lot"]
SEEDS = [3, 2**63, 5, 2**64 - 1]
FREE = Sampling(top_k=0, top_p=1.0, image_tokens_only=False)
GREEDY = Sampling(top_k=1)


@pytest.fixture
def unstopped(language, monkeypatch):
    """The language model with no end token, so that the whole vocabulary always fills the grid."""
    monkeypatch.setattr(language, "vocabulary", replace(language.vocabulary, stop=()))
    return language


def full_states(qwen, prompt_ids: list[int], codes: torch.Tensor, start: int) -> torch.Tensor:
    """transformers' hidden states from the scale token on, one pass over the whole sequence."""
    ids = torch.cat([torch.tensor(prompt_ids), codes + start])[None]
    with torch.no_grad():
        return qwen(ids).last_hidden_state[:, len(prompt_ids) - 1 :]


@pytest.mark.parametrize("sampling", [Sampling(), GREEDY, FREE], ids=["sampled", "greedy", "whole vocabulary"])
def test_states_kept_while_decoding_are_those_of_one_pass(sampling, pipeline, unstopped, qwen):
    """Catches states off by one token, a missing last state, and a cache that drifts from the model."""
    tokens = pipeline.generate_tokens(PROMPTS, SEEDS, sampling)
    ids = tokens.codes + unstopped.vocabulary.image_start
    again = encode_tokens(unstopped, Prompts(tokens.prompt_ids), ids)
    assert tokens.hidden.shape == (4, 1 + unstopped.num_tokens, unstopped.config.hidden_size)
    torch.testing.assert_close(tokens.hidden, again, rtol=1e-4, atol=1e-5)
    for k in range(len(tokens)):
        whole = full_states(qwen, tokens.prompt_ids[k], tokens.codes[k], unstopped.vocabulary.image_start)
        torch.testing.assert_close(tokens.hidden[k : k + 1], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(guidance=3.0), FREE], ids=["default", "guided", "whole vocabulary"]
)
def test_a_row_of_a_batch_is_the_single_run(sampling, pipeline):
    """Catches one generator shared by the rows, padding that changes a row, and rows that stop together."""
    together = pipeline.generate_tokens(PROMPTS, SEEDS, sampling)
    for k, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = pipeline.generate_tokens([prompt], [seed], sampling)
        count = alone.lengths[0]
        assert together.lengths[k] == count
        assert torch.equal(together.codes[k, :count], alone.codes[0])
        torch.testing.assert_close(together.hidden[k, : 1 + count], alone.hidden[0], rtol=1e-5, atol=1e-5)
        assert (together.row(k).prompts, together.row(k).seeds) == ([prompt], [seed])


def test_the_seed_decides(pipeline):
    """Catches a seed that is ignored, and draws that depend on what was drawn before."""
    first, second, other = (pipeline.generate_tokens(["a red cube"], [seed]).codes for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_global_generator_is_left_alone(pipeline):
    """Catches a draw that uses, or seeds, the generator of everybody else in the process."""
    before = torch.random.get_rng_state()
    pipeline.generate_tokens(["a red cube"], [1])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_greedy_takes_the_likeliest_image_token_at_every_step(pipeline, language, qwen, tensors):
    """Catches a greedy decode that looks at stale logits, against transformers step by step without a cache."""
    tokens = pipeline.generate_tokens(["a red cube"], [0], GREEDY)
    start, ids = language.vocabulary.image_start, list(tokens.prompt_ids[0])
    head = tensors["model.embed_tokens.weight"][start : start + language.vocabulary.num_codes]
    for code in tokens.codes[0].tolist():
        with torch.no_grad():
            assert code == int((qwen(torch.tensor([ids])).last_hidden_state[0, -1] @ head.T).argmax())
        ids.append(start + code)


def test_only_image_tokens_unless_asked(pipeline, unstopped):
    """Catches text tokens inside a picture by default, and a whole vocabulary that is out of reach."""
    codes = unstopped.vocabulary.num_codes
    default = pipeline.generate_tokens(PROMPTS, SEEDS, Sampling(top_k=0, top_p=1.0)).codes
    assert default.min() >= 0 and default.max() < codes
    free = pipeline.generate_tokens(PROMPTS, SEEDS, FREE).codes
    assert ((free >= 0) & (free < codes)).any() and (free < 0).any()


@pytest.mark.parametrize("step", [0, 4, 23])
def test_an_end_token_ends_its_row(step, pipeline, unstopped, monkeypatch):
    """Catches a row that goes on after its end, ends its neighbours, loses the end token, or is padded with 0."""
    free = pipeline.generate_tokens(PROMPTS, SEEDS, FREE)
    ids = free.codes + unstopped.vocabulary.image_start
    stop = (int(ids[1, step]), int(ids[2, min(step + 3, 24)]))
    lengths = [next((i + 1 for i, id in enumerate(row) if id in stop), len(row)) for row in ids.tolist()]
    monkeypatch.setattr(unstopped, "vocabulary", replace(unstopped.vocabulary, stop=stop))
    stopped = pipeline.generate_tokens(PROMPTS, SEEDS, FREE)
    assert stopped.lengths == lengths
    assert stopped.codes.shape[1] == max(lengths)
    assert stopped.hidden.shape[1] == 1 + max(lengths)
    for k, length in enumerate(lengths):
        assert torch.equal(stopped.codes[k, :length], free.codes[k, :length])
        assert (stopped.codes[k, length:] + unstopped.vocabulary.image_start == unstopped.vocabulary.pad).all()
        torch.testing.assert_close(stopped.hidden[k, : 1 + length], free.hidden[k, : 1 + length])
    counts = [1 + max(lengths)] * 4 if stopped.mask is None else stopped.mask.sum(1).tolist()
    assert counts == [1 + length for length in lengths]
    if stopped.mask is not None:
        assert torch.equal(stopped.mask, stopped.mask.sort(1, descending=True).values), "the mask has a hole"


def test_decoding_stops_when_every_row_has_ended(pipeline, unstopped, monkeypatch):
    """Catches the rest of the grid computed for nothing, and a callback that runs on for it."""
    ids = pipeline.generate_tokens(PROMPTS, SEEDS, FREE).codes + unstopped.vocabulary.image_start
    monkeypatch.setattr(unstopped, "vocabulary", replace(unstopped.vocabulary, stop=tuple(ids[:, 2].tolist())))
    steps = []
    stopped = pipeline.generate_tokens(PROMPTS, SEEDS, FREE, callback=lambda done, *_: steps.append(done))
    assert stopped.codes.shape[1] == max(stopped.lengths) <= 3
    assert steps == list(range(1, max(stopped.lengths) + 1))


def test_end_tokens_do_nothing_among_image_tokens(pipeline, unstopped, monkeypatch):
    """Catches a picture cut short because a code happens to carry a stop id's number."""
    monkeypatch.setattr(unstopped, "vocabulary", replace(unstopped.vocabulary, stop=tuple(range(363))))
    assert pipeline.generate_tokens(["a"], [0]).lengths == [unstopped.num_tokens]


def test_the_callback_sees_every_token_once(pipeline, language):
    """Catches progress that jumps, starts at 0, or shows token ids where codes are promised."""
    seen = []
    tokens = pipeline.generate_tokens(PROMPTS, SEEDS, callback=lambda *args: seen.append(args))
    assert [(done, total) for done, total, _ in seen] == [(k, language.num_tokens) for k in range(1, 26)]
    assert all(torch.equal(codes(), tokens.codes[:, :done]) for done, _, codes in seen)


def test_cancelling_leaves_nothing_behind(pipeline):
    """Catches a cancelled run that swallows the exception or leaves a cache for the next one."""
    clean = pipeline.generate_tokens(PROMPTS, SEEDS)

    class Stop(Exception):
        pass

    def cancel(done, total, codes):
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        pipeline.generate_tokens(PROMPTS, SEEDS, callback=cancel)
    again = pipeline.generate_tokens(PROMPTS, SEEDS)
    assert torch.equal(again.codes, clean.codes) and torch.equal(again.hidden, clean.hidden)


@pytest.mark.parametrize("negative", ["x", "a much longer negative prompt, so that the positive row is padded", None])
def test_guidance_is_that_of_two_separate_runs(negative, pipeline, language, qwen, tensors):
    """Catches guidance with the sign or the halves swapped, or a padded half, against two plain forwards by hand."""
    scale = 2.5
    tokens = pipeline.generate_tokens(["a red cube"], [0], replace(GREEDY, guidance=scale), negative_prompt=negative)
    start = language.vocabulary.image_start
    head = tensors["model.embed_tokens.weight"][start : start + language.vocabulary.num_codes]
    encode = pipeline.encoder.encode
    wanted, unwanted = encode("a red cube"), encode(negative or "")
    for code in tokens.codes[0].tolist():
        with torch.no_grad():
            yes, no = (qwen(torch.tensor([ids])).last_hidden_state[0, -1] @ head.T for ids in (wanted, unwanted))
        assert code == int((no + scale * (yes - no)).argmax())
        wanted, unwanted = wanted + [start + code], unwanted + [start + code]
    whole = full_states(qwen, tokens.prompt_ids[0], tokens.codes[0], start)
    torch.testing.assert_close(tokens.hidden, whole, rtol=1e-4, atol=1e-5)


def test_guidance_of_one_is_no_guidance(pipeline):
    """Catches a negative prompt that matters although guidance is off, or guidance that never changes a thing."""
    plain = pipeline.generate_tokens(PROMPTS, SEEDS)
    off = pipeline.generate_tokens(PROMPTS, SEEDS, Sampling(guidance=1.0), negative_prompt="blurry")
    on = pipeline.generate_tokens(PROMPTS, SEEDS, Sampling(guidance=4.0), negative_prompt="blurry")
    assert torch.equal(off.codes, plain.codes) and torch.equal(off.hidden, plain.hidden)
    assert not torch.equal(on.codes, plain.codes)


@pytest.mark.parametrize("where", ["layers.1.mlp.down_proj", "norm", "layers.0.self_attn.k_norm"])
def test_weights_that_went_bad_are_an_error(where, pipeline):
    """Catches a picture drawn from NaN: a damaged patch would otherwise give token 0 everywhere, silently."""
    damaged = copy.deepcopy(pipeline.language)
    damaged.model.get_submodule(where).weight.data[0] = float("nan")
    tokens = pipeline.generate_tokens(["a"], [0])
    with pytest.raises(Blip3oError, match="NaN or infinite"):
        generate_tokens(damaged, pipeline.encoder, Request(["a"], [0]))
    with pytest.raises(Blip3oError, match="NaN or infinite"):
        condition(damaged, tokens)


def test_prompt_and_picture_must_fit_the_model(language, pipeline, monkeypatch):
    """Catches positions past what the model knows, and a limit that is off by one."""
    prompt = pipeline.encoder.encode("a red cube")
    need = len(prompt) + language.num_tokens
    ids = torch.zeros(1, language.num_tokens, dtype=torch.long)
    monkeypatch.setattr(language.config, "max_position_embeddings", need)
    decode(language, Prompts([prompt]), [0], GREEDY)
    encode_tokens(language, Prompts([prompt]), ids)
    monkeypatch.setattr(language.config, "max_position_embeddings", need - 1)
    asked = Prompts([prompt])
    for run in (lambda: decode(language, asked, [0], GREEDY), lambda: encode_tokens(language, asked, ids)):
        with pytest.raises(Blip3oError, match=rf"{need}.*{need - 1}"):
            run()
    negative = prompt + [1]
    monkeypatch.setattr(language.config, "max_position_embeddings", need)
    with pytest.raises(Blip3oError, match=str(need + 1)):
        decode(language, Prompts([prompt], negative), [0], replace(GREEDY, guidance=2.0))


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "\u3000"])
def test_an_empty_prompt_is_refused(prompt, pipeline):
    """Catches a picture of nothing, drawn without a word, also when only one row of a batch is empty."""
    with pytest.raises(Blip3oError, match="Describe the image"):
        pipeline.generate_tokens(["a", prompt], [0, 1])


def test_the_authors_unmasked_pass_is_reachable(pipeline, qwen, language):
    """Catches a switch that does nothing: padded rows must then differ as they do in the authors' code."""
    tokens = pipeline.generate_tokens(PROMPTS[:2], SEEDS[:2])
    ids = tokens.codes + language.vocabulary.image_start
    unmasked = encode_tokens_unmasked(language, Prompts(tokens.prompt_ids), ids)
    longest = max(map(len, tokens.prompt_ids))
    rows = [[language.vocabulary.pad] * (longest - len(row)) + row for row in tokens.prompt_ids]
    with torch.no_grad():
        expected = qwen(torch.cat([torch.tensor(rows), ids], 1)).last_hidden_state[:, longest - 1 :]
    torch.testing.assert_close(unmasked, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(unmasked[0], tokens.hidden[0], atol=1e-3)


def test_own_positions_count_from_each_rows_first_token():
    """Catches positions that count the padding."""
    keep = torch.tensor([[False, False, True, True], [True, True, True, True]])
    assert own_positions(keep).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
