"""Our walk over Qwen3's layers against transformers' own model, weights loaded apart."""

import pytest
import torch

from blip3o_core.decoding.prefill import causal_mask, own_positions, pad_left
from blip3o_core.models.language import KVCache, leaf_weight


def random_rows(lengths: list[int], size: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(size, (length,), generator=generator).tolist() for length in lengths]


def ours(language, ids, keep, cache=None):
    with torch.no_grad():
        return language(language.embed(ids, torch.float32), own_positions(keep), causal_mask(keep), cache)


def theirs(qwen, ids, keep):
    with torch.no_grad():
        return qwen(ids, attention_mask=keep.long(), position_ids=own_positions(keep)).last_hidden_state


def test_one_row_equals_transformers(language, qwen, config):
    """Catches any difference in norm, rotary embedding, attention or residual order."""
    for length in (1, 2, 17, 60):
        ids, keep = pad_left(random_rows([length], config["vocab_size"], length), 0, "cpu")
        torch.testing.assert_close(ours(language, ids, keep), theirs(qwen, ids, keep), rtol=1e-5, atol=1e-5)


def test_left_padded_rows_equal_transformers(language, qwen, config):
    """Catches padding that is attended to, or that moves the positions of a shorter row."""
    ids, keep = pad_left(random_rows([3, 30, 17, 1], config["vocab_size"]), 256, "cpu")
    expected = theirs(qwen, ids, keep)
    torch.testing.assert_close(ours(language, ids, keep)[keep], expected[keep], rtol=1e-5, atol=1e-5)


def test_a_padded_row_equals_the_row_alone(language, config):
    """Catches a pad token that leaks: its id must not matter, nor how many there are."""
    rows = random_rows([5, 40, 12], config["vocab_size"], 3)
    for pad in (0, 256, 300):
        ids, keep = pad_left(rows, pad, "cpu")
        together = ours(language, ids, keep)
        for k, row in enumerate(rows):
            alone = ours(language, *pad_left([row], pad, "cpu"))[0]
            torch.testing.assert_close(together[k, -len(row) :], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pieces", [(20,), (19, 1), (1, 1, 18), (7, 6, 7)], ids=str)
def test_cached_pieces_equal_the_whole(pieces, language, config):
    """Catches keys written to the wrong place of the cache, or a mask that a later piece gets wrong."""
    ids, keep = pad_left(random_rows([20], config["vocab_size"], 5), 0, "cpu")
    whole = ours(language, ids, keep)
    cache = KVCache(language.config, 1, 20, "cpu", torch.float32)
    states, start = [], 0
    for size in pieces:
        end = start + size
        mask = torch.ones(end, end, dtype=torch.bool).tril()[None, None, start:] if start else None
        with torch.no_grad():
            embeds = language.embed(ids[:, start:end], torch.float32)
            states.append(language(embeds, own_positions(keep)[:, start:end], mask, cache))
        start = end
    assert cache.filled == 20
    torch.testing.assert_close(torch.cat(states, 1), whole, rtol=1e-5, atol=1e-5)


def test_a_token_changes_nothing_before_it(language, config):
    """Catches attention that looks ahead: decoding could then never equal one pass."""
    ids, keep = pad_left(random_rows([16], config["vocab_size"], 6), 0, "cpu")
    changed = ids.clone()
    changed[0, 9] = (changed[0, 9] + 1) % config["vocab_size"]
    before, after = ours(language, ids, keep), ours(language, changed, keep)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_rotary_frequencies_follow_the_config(language, config):
    """Catches a rope_theta that a transformers release reads from somewhere else, or frequencies left on meta."""
    exponents = torch.arange(0, config["head_dim"], 2) / config["head_dim"]
    torch.testing.assert_close(language.model.rotary_emb.inv_freq, 1 / config["rope_theta"] ** exponents)


def test_head_gives_the_rows_of_the_image_tokens(language, tensors, config):
    """Catches an output matrix cut at the wrong token: every picture would be off by some codes."""
    embedding, start = tensors["model.embed_tokens.weight"], config["image_start_token_id"]
    like = torch.zeros(1)
    assert torch.equal(language.head_weight(like, image_tokens_only=False), embedding)
    rows = language.head_weight(like, image_tokens_only=True)
    assert torch.equal(rows, embedding[start : start + config["num_image_tokens"]])


def test_a_host_may_answer_for_a_weight():
    """Catches embeddings read past the host's leaf: patched or streamed weights would be ignored."""

    class Leaf(torch.nn.Linear):
        def weight_for(self, like, rows):
            return torch.full((2, 2), 7.0, dtype=like.dtype)

    like = torch.zeros(1, dtype=torch.float64)
    assert torch.equal(leaf_weight(Leaf(2, 2), like), torch.full((2, 2), 7.0, dtype=torch.float64))
    plain = torch.nn.Linear(2, 2)
    assert torch.equal(leaf_weight(plain, like), plain.weight.double())


def test_cache_size_is_known_beforehand(language):
    """Catches a host told to free less memory than the cache then takes."""
    for batch, length, dtype in ((1, 9, torch.float32), (3, 30, torch.bfloat16)):
        data = KVCache(language.config, batch, length, "cpu", dtype).data
        assert KVCache.nbytes(language.config, batch, length, dtype) == data.numel() * data.itemsize
