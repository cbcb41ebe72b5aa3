"""Image tokens per second. The authors call transformers' `generate` and then run a second pass over everything."""

import os
import shutil
from collections.abc import Callable
from unittest.mock import patch

import torch

from blip3o_core.decoding import cuda_graph as graphs
from blip3o_core.decoding.engine import choose_engine, decode
from blip3o_core.decoding.interface import Job
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling

from .machine import in_turn, measure, timed
from .models import Model, authors_language


def run(model: Model, device: torch.device, tokens: int | None, batch: int, runs: int, copy: float = 0.0) -> dict:
    """`tokens`: how many to write, None for a whole image. `copy`: bytes per second that the machine copies."""
    language, prompts = model.language, [model.prompt] * batch
    if tokens is not None:
        language.grid = (1, tokens)
    tokens, dtype = language.num_tokens, language.model.norm.weight.dtype
    # The bytes read for a token are unknown where a pass writes several.
    speculative = choose_engine("auto", Job(language, batch, Sampling(), device, dtype)) == "speculative"
    theirs = authors_language(language)
    ids = torch.tensor(prompts, device=device)

    def ours() -> None:
        decode(language, Prompts(prompts), list(range(batch)), Sampling())

    @torch.no_grad()
    def authors() -> None:
        # No end token: both sides write as many tokens.
        written = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True, top_p=0.95, top_k=1200,
            temperature=1.0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert written.shape[1] == ids.shape[1] + tokens
        theirs.model(written, output_hidden_states=True)

    found = in_turn(ours, authors, device, runs)
    read = None if speculative else _read(language) * tokens / found["ours_s"]
    return {
        "model": model.name, "dtype": str(dtype).removeprefix("torch."), "batch": batch,
        "prompt": len(model.prompt), "tokens": tokens, **found,
        "ours_tokens_per_s": batch * tokens / found["ours_s"],
        "theirs_tokens_per_s": batch * tokens / found["theirs_s"],
        "weight_gb_per_s": read and read / 1e9, "bandwidth_share": read / copy if read and copy else None,
    }  # fmt: skip


def _read(language) -> int:
    """Bytes of weights that are read for a token."""
    layers = sum(p.numel() * p.element_size() for p in language.model.layers.parameters())
    return layers + language.vocabulary.num_codes * language.config.hidden_size * language.model.norm.weight.itemsize


def engines(model: Model, device: torch.device, tokens: int | None, runs: int, copy: float) -> list[dict]:
    """Each engine on one image. The first run is reported apart: some engines compile in it."""
    language = model.language
    if tokens is not None:
        language.grid = (1, tokens)
    tokens = language.num_tokens
    real = graphs.warm_up_and_capture if device.type == "cuda" else lambda loop, _: loop

    def compiled(loop, device) -> Callable[[], None]:
        loop.stepper.feed = torch.compile(loop.stepper.feed, dynamic=False)
        return real(loop, device)

    variants = {"modules": ("modules", real), "direct": ("direct", real)}
    if device.type == "cuda":
        variants["graph"] = ("graph", real)
    if device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++")):
        variants["fixed, compiled"] = ("graph", compiled)
    variants["speculative"] = ("speculative", real)
    rows = []
    for name, (engine, capture) in variants.items():
        with patch.object(graphs, "warm_up_and_capture", capture):
            work = lambda engine=engine: decode(language, Prompts([model.prompt]), [0], Sampling(), engine=engine)  # noqa: E731
            first = timed(work, device)
            seconds = min(measure(work, device, runs))
        read = None if engine == "speculative" else _read(language) * tokens / seconds
        rows.append({
            "engine": name, "model": model.name, "tokens": tokens, "first_s": first, "seconds": seconds,
            "tokens_per_s": tokens / seconds, "bandwidth_share": read and read / copy,
        })  # fmt: skip
    return rows
