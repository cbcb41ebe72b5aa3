"""The authors' way through the same weights: transformers' `generate` with a second pass, and diffusers' scheduler."""

import torch

from benchmarks import render
from benchmarks.models import authors_language
from blip3o_core.diffusion import sampler as diffusion

from ..bench import Bench

TOKENS, STEPS = 40, 6


def run(bench: Bench) -> None:
    notes, model = bench.notes, bench.full
    tokens, steps = (2, 2) if bench.dry else (TOKENS, STEPS)
    theirs = authors_language(model.language)
    ids = torch.tensor(bench.rows(1), device=bench.device)

    @torch.no_grad()
    def generate(count: int) -> None:
        written = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=True, top_p=0.95, top_k=1200,
            temperature=1.0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        theirs.model(written, output_hidden_states=True)

    with notes.attempt("tokens"):
        generate(2)
        seconds = bench.seconds(lambda: generate(tokens))
        notes.put(tokens=tokens, tokens_s=seconds, tokens_per_s=tokens / seconds)
        notes.say(f"{tokens / seconds:.1f} tokens/s")
    with notes.attempt("diffusion"):
        shape = (model.transformer.config.in_channels, model.cells, model.cells)
        noise, hidden = diffusion.initial_noise(shape, [0]), render.states(model, 1, bench.device)
        seconds = bench.seconds(lambda: render.authors(model, hidden, noise, steps), 2)
        notes.put(steps=steps, step_ms=1000 * seconds / steps)
        notes.say(f"{1000 * seconds / steps:.1f} ms a step")
