"""Image tokens per second at the published shapes, and the share of the copy's bandwidth that this is.

A step is timed at the beginning of an image and late in it, whole images after a first one that does not count.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from blip3o_core.decoding import fused as fused_engine
from blip3o_core.decoding.engine import decode, why_not
from blip3o_core.decoding.interface import Decoded, Job
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.models.language import LanguageModel

from ..bench import Bench, relative
from ..loops import LOOPS, bytes_read, step_of
from ..quantised import DTYPES, quantise


def run(bench: Bench) -> None:
    notes, sizes = bench.notes, bench.sizes
    lm = bench.full.language
    for engine, rows in [*((bench.fused, rows) for rows in sizes.rows), ("graph", 1)]:
        with notes.attempt(f"{engine}, {rows} rows"), image_of(lm, sizes.tokens):
            _step(bench, "1.7B", lm, rows, engine)
            _image(bench, "1.7B", lm, rows, engine)
    for engine in ("direct", "modules"):
        with notes.attempt(engine), image_of(lm, sizes.slow_tokens):
            _image(bench, "1.7B", lm, 1, engine)
    with notes.attempt("rows"), image_of(lm, sizes.tokens):
        _rows_are_single_runs(bench, lm)
    with notes.attempt("against the modules"):
        _against_modules(bench, "bfloat16", lm, bench.fused)
    with notes.attempt("0.6B"):
        small = bench.language(small=True)
        with image_of(small, sizes.tokens):
            _step(bench, "0.6B", small, 1, bench.fused)
            _image(bench, "0.6B", small, 1, bench.fused)
        del small
    for kind, dtype in DTYPES.items():
        with notes.attempt(kind):
            quantised = bench.language()
            quantise(quantised.model.layers, dtype)
            engine = "modules" if bench.dry else "fused"
            if not bench.dry:
                with image_of(quantised, sizes.tokens):
                    _step(bench, kind, quantised, 1, engine)
            _against_modules(bench, kind, quantised, engine)
            del quantised
        bench.free()
    notes.put(refused=list(fused_engine.FAILED.values()))
    for row in notes.found.get("images", []):
        notes.say(
            f"{row['engine']}, {row['rows']}, {row['model']}: {row['tokens_per_s']:.0f} tokens/s, {row['share']:.2f}"
        )
    for line in notes.found["refused"]:
        notes.say(f"fused was refused: {line}")


@contextmanager
def image_of(lm: LanguageModel, tokens: int | None) -> Iterator[None]:
    """Images of so many tokens meanwhile."""
    grid = lm.grid
    lm.grid = grid if tokens is None else (1, tokens)
    try:
        yield
    finally:
        lm.grid = grid


def _require(lm: LanguageModel, rows: int, engine: str) -> None:
    weight = lm.model.norm.weight
    reason = why_not(engine, Job(lm, rows, Sampling(), weight.device, weight.dtype))
    if reason is not None:
        raise RuntimeError(f"engine {engine!r} cannot serve: {reason}")


def _step(bench: Bench, model: str, lm: LanguageModel, rows: int, engine: str) -> None:
    """Microseconds of a replayed step after the prompt, and after `late` tokens."""
    _require(lm, rows, engine)
    sizes = bench.sizes
    with step_of(lm, bench.rows(rows), LOOPS[engine]) as step:
        step()
        early = bench.microseconds(step, sizes.replays)
        for _ in range(max(0, sizes.late - sizes.replays - 1)):
            step()
        late = bench.microseconds(step, sizes.replays) if sizes.late else early
    share = bytes_read(lm) / (early * 1e-6) / bench.copy
    bench.notes.row("steps", engine=engine, model=model, rows=rows, us=early, late_us=late, share=share)


def _image(bench: Bench, model: str, lm: LanguageModel, rows: int, engine: str) -> None:
    def work() -> None:
        decode(lm, Prompts(bench.rows(1) * rows), list(range(rows)), Sampling(), engine=engine)

    first, seconds = bench.seconds(work), bench.seconds(work)
    tokens = lm.num_tokens
    bench.notes.row(
        "images", engine=engine, model=model, rows=rows, tokens=tokens, first_s=first, seconds=seconds,
        tokens_per_s=rows * tokens / seconds, share=bytes_read(lm) * tokens / seconds / bench.copy,
    )  # fmt: skip


def _rows_are_single_runs(bench: Bench, lm: LanguageModel) -> None:
    """Rows of prompts of several lengths, by the fused engine: each to the bit what it is alone."""

    def images(rows: list[list[int]], seeds: list[int]) -> Decoded:
        return decode(lm, Prompts(rows), seeds, Sampling(), engine=bench.fused)

    rows = [bench.rows(1, bench.sizes.prompt + more)[0] for more in ((0, 5) if bench.dry else (0, 15, -13))]
    together = images(rows, list(range(len(rows))))
    for k, row in enumerate(rows):
        alone = images([row], [k])
        ids = torch.equal(alone.ids[0], together.ids[k])
        bench.notes.row(
            "rows", row=k, prompt=len(row), equal_ids=ids, equal_states=torch.equal(alone.hidden[0], together.hidden[k])
        )
    if not bench.dry and not all(row["equal_ids"] and row["equal_states"] for row in bench.notes.found["rows"]):
        raise AssertionError("a row of a batch is not the single run")


def _against_modules(bench: Bench, kind: str, lm: LanguageModel, engine: str) -> None:
    """The first hidden states of greedy tokens, by `engine` and by the modules."""
    with image_of(lm, min(5, bench.sizes.slow_tokens)):
        ways = [decode(lm, Prompts(bench.rows(1)), [0], Sampling(top_k=1), engine=each) for each in (engine, "modules")]
    same = int((ways[0].ids == ways[1].ids)[0].long().cumprod(0).sum())
    hidden = [way.hidden[:, : 1 + same] for way in ways]
    bench.notes.row("against_modules", weights=kind, equal_tokens=same, apart=relative(*hidden))
