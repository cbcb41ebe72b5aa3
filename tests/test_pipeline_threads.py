"""One Pipeline used by several threads, or by a callback of its own run: every image is as if it were made alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.pipeline import Pipeline

PROMPTS = ("a red circle", "a blue star left of a green ring", "two yellow squares")


@pytest.fixture(scope="module")
def bundled():
    return Pipeline.load(BUNDLED, dtype=torch.float32)


@pytest.mark.parametrize("engine", [pytest.param("modules", marks=pytest.mark.long), "direct", "speculative"])
def test_tokens_that_are_written_at_the_same_time_are_right(bundled, engine):
    """Catches a cache of keys, a step or a joined matrix that two runs share."""
    rows = [bundled.encoder.encode(prompt) for prompt in PROMPTS]
    started = threading.Barrier(len(rows), timeout=60)

    def one(k, together=True):
        def callback(done, total, ids):
            if together and done == 2:
                started.wait()

        found = decode(bundled.language, Prompts([rows[k]]), [k], Sampling(), callback, engine=engine)
        return found.ids, found.hidden

    alone = [one(k, together=False) for k in range(len(rows))]
    with ThreadPoolExecutor(len(rows)) as threads:
        found = list(threads.map(one, range(len(rows))))
    for (ids, hidden), (expected, states) in zip(found, alone, strict=True):
        assert torch.equal(ids, expected) and torch.equal(hidden, states)


def test_whole_images_that_overlap_are_right(bundled):
    """Catches an image that belongs to another request, at once or in every later one."""

    def one(k, callback=None):
        tokens = bundled.generate_tokens([PROMPTS[k]], [k])
        return bundled.render(tokens, [k], steps=4, guidance=2.0 if k else 1.0, callback=callback)

    alone = [one(k) for k in range(len(PROMPTS))]
    step = threading.Barrier(len(PROMPTS), timeout=60)
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        found = list(threads.map(lambda k: one(k, lambda *_: step.wait()), range(len(PROMPTS))))
    nested = []
    outer = one(1, lambda *_: nested.append(one(2)))
    assert all(map(torch.equal, found, alone)) and torch.equal(outer, alone[1])
    assert all(torch.equal(each, alone[2]) for each in nested) and torch.equal(one(0), alone[0])


def test_the_image_tokenizer_is_loaded_once(bundled, monkeypatch):
    """Catches two threads that both find none, and load its weights twice."""
    loads, meet = [], threading.Barrier(3, timeout=60)
    load = bundled.checkpoint.load_image_tokenizer
    monkeypatch.setattr(bundled.checkpoint, "load_image_tokenizer", lambda dtype: loads.append(1) or load(dtype))
    monkeypatch.setattr(bundled, "_image_tokenizer", None)

    def one(_):
        meet.wait()
        return bundled.image_tokenizer

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(one, range(3)))
    assert len(loads) == 1 and found[0] is found[1] is found[2]
