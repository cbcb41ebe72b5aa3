"""Do the engines write the same tokens? The bundled model, against its modules in batches of 8."""

import itertools

import torch

from benchmarks import models
from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.models.language import LanguageModel

from ..bench import Bench
from .decode import image_of

SAMPLINGS = {"greedy": Sampling(top_k=1), "default": Sampling()}


def run(bench: Bench) -> None:
    notes = bench.notes
    for dtype in (torch.float32, torch.bfloat16):
        lm = models.tiny(bench.device, dtype).language
        prompts = _prompts(bench.sizes.prompts)
        for name, sampling in SAMPLINGS.items():
            found = {}
            for engine, size in (("modules", 8), (bench.fused, 8), ("graph", 8), ("modules", 5)):
                way = f"{engine}, {size} rows"
                with notes.attempt(f"{way}, {dtype}"), image_of(lm, bench.sizes.tokens):
                    found[way] = _ids(lm, prompts, sampling, engine, size)
            for way, ids in found.items():
                same = ids == found["modules, 8 rows"]
                notes.row(
                    "agreement", dtype=str(dtype)[6:], sampling=name, way=way, images=len(ids),
                    equal=int(same.all(1).sum()), equal_tokens=float(same.float().mean()),
                )  # fmt: skip
    rows = notes.found.get("agreement", [])
    for row in rows:
        notes.say(f"{row['dtype']} {row['sampling']} {row['way']}: {row['equal']} of {row['images']} images equal")
    if any(row["equal"] < row["images"] for row in rows if row["dtype"] == "float32"):
        raise AssertionError("an engine writes other tokens in float32")


def _prompts(count: int) -> list[list[int]]:
    encode = open_checkpoint(BUNDLED).prompt_encoder.encode
    pairs = itertools.product(("red", "green", "blue", "yellow"), ("circle", "square", "triangle"), ("star", "ring"))
    return [encode(f"a {colour} {shape} left of a white {other}") for colour, shape, other in pairs][:count]


def _ids(lm: LanguageModel, prompts: list, sampling: Sampling, engine: str, size: int) -> torch.Tensor:
    """(prompts, T); prompt k with seed k, `size` at a time."""
    parts = []
    for begin in range(0, len(prompts), size):
        part = prompts[begin : begin + size]
        seeds = list(range(begin, begin + len(part)))
        parts.append(decode(lm, Prompts(part), seeds, sampling, engine=engine).ids)
    return torch.cat(parts)
