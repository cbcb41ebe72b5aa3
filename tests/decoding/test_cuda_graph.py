"""The decode step of fixed shape, and what a CUDA graph asks of it, without a GPU.

`Recording` stands in for the graph: it notes every operation of one call with the very tensors it read and wrote, and
repeats them on those. What is not on the device, in buffers and of a fixed shape does not survive that.
"""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding import cuda_graph as graphs
from blip3o_core.decoding import direct as stepping
from blip3o_core.decoding import engine as decoding
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.interface import Job
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.errors import Blip3oError
from tests.support.tiny_checkpoint import make_checkpoint

COLOURS = ("red", "blue", "green", "yellow", "purple")
PAIRS = (("circle", "square"), ("star", "ring"), ("ring", "cross"), ("cross", "circle"), ("square", "star"))
SAMPLINGS = [Sampling(), Sampling(top_k=1), Sampling(top_k=0, top_p=1.0), Sampling(guidance=2.5)]


class Recording(TorchDispatchMode):
    """The operations of what runs inside, to be repeated on the same memory."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number was read back from the device")
        result = function(*arguments, **(options or {}))
        self.calls.append((function, arguments, options or {}, result))
        return result

    def replay(self) -> None:
        with torch.inference_mode():
            for function, arguments, options, kept in self.calls:
                result = function(*arguments, **options)
                pairs = zip(
                    *(each if isinstance(each, (tuple, list)) else [each] for each in (kept, result)), strict=True
                )
                for old, new in pairs:
                    # Views and results written in place are the old memory already.
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


@pytest.fixture
def recordings(monkeypatch):
    """Recordings in the place of CUDA graphs; the list of those that were made."""
    made = []

    def capture(loop, device):
        loop.rewind()
        loop()
        loop.rewind()
        with Recording() as recording:
            loop()
        made.append(recording)
        return recording.replay

    monkeypatch.setattr(graphs, "_failures", {})
    monkeypatch.setattr(graphs, "warm_up_and_capture", capture)
    return made


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(BUNDLED)


def prompts(checkpoint) -> list[list[int]]:
    texts = [f"a {one} {s} and a {two} {t}" for one in COLOURS for two in COLOURS[:2] for s, t in PAIRS]
    return [checkpoint.prompt_encoder.encode(text) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, pytest.param(50, marks=pytest.mark.long)])
def test_greedy_ids_of_the_recorded_step_equal_the_modules(checkpoint, recordings, count):
    """A position, mask or cache entry that stays where it was at the recording."""
    language, rows = checkpoint.load_language(torch.float32), prompts(checkpoint)[:count]
    assert len(rows) == count
    for first in range(0, count, 10):
        part = rows[first : first + 10]
        greedy = Sampling(top_k=1)
        both = [decode(language, Prompts(part), [0] * 10, greedy, engine=engine) for engine in ("graph", "modules")]
        graph, walked = both
        assert torch.equal(graph.ids, walked.ids)
        assert torch.allclose(graph.hidden, walked.hidden, atol=1e-5)
    assert len(recordings) == count // 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["default", "greedy", "all", "guided"])
def test_padded_rows_guidance_and_sampling(tmp_path, recordings, sampling, dtype):
    """Left padding that is looked at, a uniform number used twice, guidance rows that are not fed."""
    small = open_checkpoint(make_checkpoint(tmp_path / "m"))
    language, encode = small.load_language(dtype), small.prompt_encoder.encode
    rows = [encode("a"), encode("a longer prompt than the first")]
    for given in (rows, rows[:1]):
        seeds = list(range(len(given)))
        asked = Prompts(given, encode(""))
        graph, direct = (decode(language, asked, seeds, sampling, engine=engine) for engine in ("graph", "direct"))
        assert torch.equal(graph.ids, direct.ids) or dtype == torch.bfloat16  # ties are broken by the last bit
        if dtype == torch.float32:
            assert torch.allclose(graph.hidden, direct.hidden, atol=1e-5)


@pytest.mark.long
def test_drawn_as_often_as_without_a_graph(checkpoint, recordings):
    """Another distribution: the same seeds must draw the same tokens, and 400 seeds therefore the same shares."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("three stars")
    seeds = list(range(400))
    graph, modules = (decode(language, Prompts([row] * 400), seeds, Sampling(), engine=e) for e in ("graph", "modules"))
    assert (graph.ids == modules.ids).float().mean() > 0.999
    assert len(set(graph.ids[:, 9].tolist())) > 10, "the prompt must leave a choice"


def test_a_callback_sees_every_token_and_may_cancel(checkpoint, recordings):
    """A bar that stands still, a callback that sees later tokens, and a run that cannot be stopped."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")
    seen = []

    def stop(done, total, ids):
        seen.append(ids.clone())
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(language, Prompts([row]), [0], Sampling(), callback=stop, engine="graph")
    whole = decode(language, Prompts([row]), [0], Sampling(), engine="graph")
    assert [each.shape[1] for each in seen] == list(range(1, 12))
    assert torch.equal(seen[-1], whole.ids[:, :11])


def test_weights_may_change_between_runs(checkpoint, recordings):
    """A graph that outlives its run, and draws with the weights of the one before."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")
    decode(language, Prompts([row]), [0], Sampling(), engine="graph")
    with torch.no_grad():
        for layer in language.model.layers:
            layer.mlp.down_proj.weight = torch.nn.Parameter(layer.mlp.down_proj.weight * 0.5)
    again, walked = (decode(language, Prompts([row]), [0], engine=engine) for engine in ("graph", "modules"))
    assert torch.allclose(again.hidden, walked.hidden, atol=1e-5)


def test_what_cannot_be_recorded_is_said_and_runs_step_by_step(checkpoint, monkeypatch, caplog):
    """A failed recording that loses the picture, or leaves its trial steps in it."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")

    def fail(loop, device):
        loop()
        loop()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "_failures", {})
    monkeypatch.setattr(graphs, "warm_up_and_capture", fail)
    with caplog.at_level(logging.WARNING):
        graph = decode(language, Prompts([row]), [3], Sampling(), engine="graph")
    assert torch.equal(graph.ids, decode(language, Prompts([row]), [3], Sampling()).ids)
    assert "not permitted when stream is capturing)" in caplog.text


def test_an_engine_that_cannot_serve_is_refused(checkpoint):
    """A patch that is left out, an end token that is passed over, a row that is dropped: all without a word."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")
    language.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    for engine in ("direct", "graph", "speculative"):
        with pytest.raises(Blip3oError, match="hooks or a replaced forward.*Use 'auto'"):
            decode(language, Prompts([row]), [0], Sampling(), engine=engine)
    whole = checkpoint.load_language(torch.float32)
    for engine in ("graph", "speculative"):
        with pytest.raises(Blip3oError, match="an image may end early"):
            decode(whole, Prompts([row]), [0], Sampling(image_tokens_only=False), engine=engine)
    with pytest.raises(Blip3oError, match="2 rows"):
        decode(whole, Prompts([row], row), [0], Sampling(guidance=2.0), engine="speculative")
    with pytest.raises(Blip3oError, match="'Graph'. Choose one of auto, modules"):
        decode(whole, Prompts([row]), [0], Sampling(), engine="Graph")


def test_without_a_gpu_a_graph_is_not_tried_forever(checkpoint, monkeypatch, caplog):
    """A failed recording, repeated at every picture."""
    monkeypatch.setattr(graphs, "_failures", {})
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")
    for _ in range(4):
        ids = decode(language, Prompts([row]), [3], Sampling(), engine="graph").ids
    assert torch.equal(ids, decode(language, Prompts([row]), [3], Sampling()).ids)
    assert caplog.text.count("no CUDA graph could be captured (cpu does not support CUDA graphs)") == 2


def test_one_failed_recording_does_not_slow_the_process_down_for_good(checkpoint, monkeypatch, caplog):
    """A host that freed memory in the middle of one recording, and every later picture drawn the slow way; and an error
    without a message, which ended the run."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")
    calls, outcomes = [], [RuntimeError(""), None, RuntimeError("gone"), RuntimeError(""), None]

    def sometimes(loop, device):
        outcome = outcomes[len(calls)]
        calls.append(outcome)
        if outcome is not None:
            raise outcome
        return loop.__call__

    monkeypatch.setattr(graphs, "_failures", {})
    monkeypatch.setattr(graphs, "warm_up_and_capture", sometimes)
    expected = decode(language, Prompts([row]), [3], Sampling()).ids
    for tries in (2, 4, 5):  # at once again; refused; the next run may
        assert torch.equal(decode(language, Prompts([row]), [3], Sampling(), engine="graph").ids, expected)
        assert len(calls) == tries
    assert caplog.text.count("no CUDA graph could be captured") == 1 and "(RuntimeError)" in caplog.text


def test_a_card_that_is_full_says_so_by_either_error(checkpoint, monkeypatch):
    """Instantiating a graph reports full memory as another error than allocating does, which is no failed recording."""
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")

    def full(loop, device):
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(graphs, "_failures", {})
    monkeypatch.setattr(graphs, "warm_up_and_capture", full)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        decode(language, Prompts([row]), [3], Sampling(), engine="graph")
    assert not graphs._failures


def test_running_out_of_memory_is_not_a_failed_recording(checkpoint, monkeypatch):
    """Graphs that are given up for good, and a host that is not told to free memory, since another model was loaded."""
    monkeypatch.setattr(graphs, "_failures", {})
    language, row = checkpoint.load_language(torch.float32), checkpoint.prompt_encoder.encode("a red ring")

    def full(loop, device):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(graphs, "warm_up_and_capture", full)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            decode(language, Prompts([row]), [3], Sampling(), engine="graph")
    assert not graphs._failures


def test_the_quickest_way_that_serves_is_taken(checkpoint, monkeypatch, caplog):
    """A graph where an end token may come, or of weights that are not there; and no word about it."""
    language = checkpoint.load_language(torch.float32)
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")

    def engine(device, dtype=torch.float32, sampling=Sampling(), rows=1):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            return decoding.choose_engine("auto", Job(language, rows, sampling, device, dtype))

    assert engine(cpu) == "speculative" and not caplog.text
    assert engine(cpu, rows=2) == "direct" and "2 rows" in caplog.text
    assert engine(cpu, sampling=Sampling(image_tokens_only=False)) == "direct"
    assert engine(cpu, torch.bfloat16) == "modules" and "stored in" in caplog.text
    assert engine(cuda) == "modules" and "is on cpu, not on cuda:0" in caplog.text
    assert engine(torch.device("mps")) == "modules" and "do not support mps" in caplog.text
    monkeypatch.setattr(decoding, "why_not_direct", lambda *_: None)
    assert engine(cuda) == "graph" and engine(cpu, torch.bfloat16) == "direct"
    with monkeypatch.context() as patch:
        patch.setattr(stepping, "JOINED_BYTES", 1000)  # a large model: nobody knows how well its tokens are guessed
        assert engine(cpu) == "direct"
    assert (
        engine(cuda, sampling=Sampling(image_tokens_only=False)) == "modules"
        and "an image may end early" in caplog.text
    )
