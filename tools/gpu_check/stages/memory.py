"""What the nodes ask ComfyUI to keep free beside the weights, against what is used."""

from functools import partial

from benchmarks import memory as counted
from blip3o_core import memory
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Sampling

from ..bench import Bench


def run(bench: Bench) -> None:
    notes, model, sizes = bench.notes, bench.full, bench.sizes
    for row in counted.run(model, bench.device):
        notes.row("parts", part=row["part"], asked_gb=row["estimate_gb"], used_gb=row["working_gb"])
    lm = model.language
    dtype = lm.model.norm.weight.dtype
    for rows, prompt in ((4, sizes.prompt), (8, sizes.prompt), (1, 30 * sizes.prompt)):
        with notes.attempt(f"{rows} rows, prompt {prompt}"):
            prompts = Prompts(bench.rows(rows, prompt))
            used = bench.peak(partial(decode, lm, prompts, list(range(rows)), Sampling()))
            length = prompt + lm.num_tokens
            asked = memory.lm_decode_bytes(lm.config, rows, length, lm.vocabulary.num_codes, dtype)
            notes.row("tokens", rows=rows, prompt=prompt, asked_gb=asked / 1e9, used_gb=used)
    for row in notes.found["parts"]:
        notes.say(f"{row['part']}: asked {row['asked_gb']:.2f} GB, used {row['used_gb'] or 0:.2f}")
    low = [
        row for table in ("parts", "tokens") for row in notes.found[table] if (row["used_gb"] or 0) > row["asked_gb"]
    ]
    if low:
        raise AssertionError(f"more is used than asked for: {low}")
