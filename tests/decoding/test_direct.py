"""The quick decode step is the walk over the modules, and steps aside where it cannot be."""

from functools import partial

import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding import direct as stepping
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from tests.support.tiny_checkpoint import make_checkpoint

COLOURS = ("red", "blue", "green", "yellow", "purple")
PAIRS = (("circle", "square"), ("star", "ring"), ("ring", "cross"), ("cross", "circle"), ("square", "star"))


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(BUNDLED)


quick, slow = (partial(decode, engine=engine) for engine in ("direct", "modules"))


def prompts(checkpoint) -> list[list[int]]:
    texts = [f"a {one} {s} and a {two} {t}" for one in COLOURS for two in COLOURS[:2] for s, t in PAIRS]
    return [checkpoint.prompt_encoder.encode(text) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_greedy_ids_equal_those_of_the_modules(checkpoint, dtype, count):
    """A joined matrix cut in the wrong place, a rotary table off by one, or a norm that rounds elsewhere."""
    language, rows = checkpoint.load_language(dtype), prompts(checkpoint)[:count]
    assert len(rows) == count
    for first in range(0, len(rows), 10):
        part = rows[first : first + 10]
        stepped, walked = (way(language, Prompts(part), [0] * len(part), Sampling(top_k=1)) for way in (quick, slow))
        assert torch.equal(stepped.ids, walked.ids)
        assert torch.allclose(stepped.hidden, walked.hidden, atol=1e-5)


@pytest.mark.parametrize("join", [True, False], ids=["joined", "apart"])
def test_padded_rows_guidance_and_single_rows(tmp_path, monkeypatch, join):
    """Masks that are cut at the wrong key, and large models, whose matrices are not joined."""
    monkeypatch.setattr(stepping, "JOINED_BYTES", 2**30 if join else 0)
    small = open_checkpoint(make_checkpoint(tmp_path / "m"))
    language, encode = small.load_language(), small.prompt_encoder.encode
    rows, sampling = [encode("a"), encode("a longer prompt than the first")], Sampling(guidance=2.0)
    for given in (rows, rows[:1]):
        asked = Prompts(given, encode(""))
        both = [way(language, asked, list(range(len(given))), sampling) for way in (quick, slow)]
        assert torch.equal(both[0].ids, both[1].ids)
        assert torch.allclose(both[0].hidden, both[1].hidden, atol=1e-5)


@pytest.mark.parametrize("engine", ["direct", "graph"])
def test_attention_may_lay_its_result_out_as_it_likes(checkpoint, monkeypatch, engine):
    """A step that crashed on every card whose attention is not cuDNN's: the others give queries before heads."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")
    attention = torch.nn.functional.scaled_dot_product_attention

    def as_on_a_card(q, k, v, *mask, **options):
        return attention(q, k, v, *mask, **options).transpose(1, 2).contiguous().transpose(1, 2)

    whole = decode(language, Prompts([row]), [3], Sampling(), engine=engine)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", as_on_a_card)
    assert torch.equal(decode(language, Prompts([row]), [3], Sampling(), engine=engine).ids, whole.ids)


def test_drafts_of_one_prompt_share_its_prefill_and_equal_single_runs(checkpoint, monkeypatch):
    """N drafts that cost N prefills, or a cache row that another draft writes into."""
    language, seen = checkpoint.load_language(torch.float32), []
    row = checkpoint.prompt_encoder.encode("a red circle above a blue star")
    forward = type(language).forward

    def counted(self, embeds, *more):
        seen.append(len(embeds))
        return forward(self, embeds, *more)

    monkeypatch.setattr(type(language), "forward", counted)
    together = quick(language, Prompts([row] * 4), [3, 4, 5, 6], Sampling())
    assert seen == [1]
    for index, seed in enumerate((3, 4, 5, 6)):
        alone = quick(language, Prompts([row]), [seed], Sampling())
        assert torch.equal(alone.ids[0], together.ids[index])
        assert torch.allclose(alone.hidden[0], together.hidden[index], atol=1e-5)


def test_what_cannot_be_read_directly_goes_through_the_modules(checkpoint):
    """A patched, hooked or foreign layer whose change would silently be left out of every picture."""
    cpu = torch.device("cpu")
    assert stepping.why_not_direct(checkpoint.load_language(torch.float32), cpu, torch.float32) is None
    assert "stored in" in stepping.why_not_direct(checkpoint.load_language(torch.bfloat16), cpu, torch.float32)
    hooked = checkpoint.load_language(torch.float32)
    hooked.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert "hooks" in stepping.why_not_direct(hooked, cpu, torch.float32)
    patched = checkpoint.load_language(torch.float32)
    patched.model.layers[1].mlp.down_proj.stored = lambda: None  # as a host's leaf says
    assert "patched" in stepping.why_not_direct(patched, cpu, torch.float32)
    patched = checkpoint.load_language(torch.float32)
    patched.model.norm.stored = lambda: None
    assert "patched" in stepping.why_not_direct(patched, cpu, torch.float32)
    watched = checkpoint.load_language(torch.float32)
    watched.register_forward_hook(lambda *_: None)
    assert "hooks" in stepping.why_not_direct(watched, cpu, torch.float32)
    replaced = checkpoint.load_language(torch.float32)
    projection = replaced.model.layers[0].self_attn.v_proj
    projection.forward = lambda x: x  # as LoRA tools do that wrap modules in place
    assert "replaced forward" in stepping.why_not_direct(replaced, cpu, torch.float32)
    biased = checkpoint.load_language(torch.float32)
    biased.model.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(1))
    assert "Linear" in stepping.why_not_direct(biased, cpu, torch.float32)
    other = checkpoint.load_language(torch.float32)
    other.config.hidden_act = "gelu"
    assert "gelu" in stepping.why_not_direct(other, cpu, torch.float32)
    adapted = checkpoint.load_language(torch.float32)

    class Adapter(torch.nn.Linear):
        pass

    adapted.model.layers[1].self_attn.q_proj.__class__ = Adapter
    assert "Adapter" in stepping.why_not_direct(adapted, cpu, torch.float32)
    import peft

    wrapped = checkpoint.load_language(torch.float32)
    wrapped.model.layers[1].self_attn.q_proj = peft.tuners.lora.Linear(
        wrapped.model.layers[1].self_attn.q_proj, "default", peft.LoraConfig(), r=2
    )
    assert "Linear" in stepping.why_not_direct(wrapped, cpu, torch.float32)  # peft's class of that name
