"""The fused decode step in Triton's interpreter, on a CPU: `python -m tests.support.interpreted`, a JSON line a case.

A process of its own, since Triton decides when it is imported whether it interprets. Seconds a token even so: a model
with random weights, two tokens.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.decoding import fused
from blip3o_core.decoding.engine import choose_engine, decode
from blip3o_core.decoding.interface import Job
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from tests.support.tiny_checkpoint import make_checkpoint
from tools.gpu_check.quantised import quantise

SHORT, LONG = "a", "a longer prompt than the first"
CASES = {
    "sampled": (torch.float32, [SHORT], Sampling(), None),
    "greedy, padded rows": (torch.float32, [SHORT, LONG], Sampling(top_k=1), None),
    "guided": (torch.float32, [SHORT], Sampling(guidance=2.5), None),
    "bfloat16": (torch.bfloat16, [SHORT], Sampling(top_k=1), None),
    "int8": (torch.bfloat16, [SHORT], Sampling(top_k=1), torch.int8),
    "fp8": (torch.bfloat16, [SHORT], Sampling(top_k=1), torch.float8_e4m3fn),
}


def run(checkpoint, dtype, prompts, sampling, stored) -> dict:
    language, encode = checkpoint.load_language(dtype), checkpoint.prompt_encoder.encode
    language.grid = (1, 2)
    if stored is not None:
        quantise(language.model.layers, stored)
    rows, seeds = [encode(prompt) for prompt in prompts], list(range(3, 3 + len(prompts)))
    asked = Prompts(rows, encode(""))
    ways = [decode(language, asked, seeds, sampling, engine=engine) for engine in ("fused", "modules")]
    apart = (ways[0].hidden - ways[1].hidden).float().norm() / ways[1].hidden.float().norm()
    return {
        "equal": torch.equal(ways[0].ids, ways[1].ids),
        "apart": float(apart),
        "refused": list(fused.FAILED.values()),
    }


def rows_alone(checkpoint) -> dict:
    """Is each of two bfloat16 rows of unequal length the single run, bit for bit?"""
    language, encode = checkpoint.load_language(torch.bfloat16), checkpoint.prompt_encoder.encode
    language.grid = (1, 1)
    rows = [encode(SHORT), encode(LONG)]
    together = decode(language, Prompts(rows), [5, 6], Sampling(), engine="fused")
    alone = [decode(language, Prompts([row]), [5 + k], Sampling(), engine="fused") for k, row in enumerate(rows)]
    return {"equal": [torch.equal(each.hidden[0], together.hidden[k]) for k, each in enumerate(alone)]}


def refused(checkpoint, dtype=torch.float32, stored=None) -> dict:
    """What a wrong kernel costs: its first step is noticed, and another engine writes the image."""
    from blip3o_core.decoding.fused import engine, trial

    language, row = checkpoint.load_language(dtype), checkpoint.prompt_encoder.encode(SHORT)
    language.grid = (1, 2)
    if stored is not None:
        quantise(language.model.layers, stored)
    step = engine.FusedLoop.__call__

    def wrong(loop):
        step(loop)
        loop.hidden[:, 1] *= 1.1

    trial._passed.clear()
    engine.FusedLoop.__call__ = wrong
    written = decode(language, Prompts([row]), [3], Sampling(), engine="fused")
    engine.FusedLoop.__call__ = step
    expected = decode(language, Prompts([row]), [3], Sampling(), engine="modules")
    job = Job(language, 1, Sampling(), torch.device("cpu"), dtype)
    return {
        "equal": torch.equal(written.ids, expected.ids),
        "equal_states": torch.equal(written.hidden, expected.hidden),
        "why_not": fused.why_not_fused(job),
        "chosen": choose_engine("auto", job),
    }


def refused_int8(checkpoint) -> dict:
    """`refused` with quantised weights, which no CUDA graph can read."""
    return refused(checkpoint, torch.bfloat16, torch.int8)


def main() -> None:
    torch.set_num_threads(1)
    asked = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(make_checkpoint(Path(folder, "m")))
        for name in asked or [*CASES, "rows", "refused", "refused int8"]:
            found = {"rows": rows_alone, "refused": refused, "refused int8": refused_int8}.get(name)
            result = found(checkpoint) if found else run(checkpoint, *CASES[name])
            print(json.dumps({"case": name, **result}), flush=True)


if __name__ == "__main__":
    main()
