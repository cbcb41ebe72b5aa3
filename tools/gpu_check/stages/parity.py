"""The recorded numbers of the authors' code: in float32 within the limits of the tests, in bfloat16 part by part.

The edits' references are resized by Pillow, whose versions before 13 give other pixels than the recorded ones.
"""

import json
from pathlib import Path

import PIL
import torch
from safetensors.torch import load_file

from blip3o_core.compat import encode_tokens_unmasked
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.models import autoencoder
from blip3o_core.models.connector import connect
from tools.parity.__main__ import case_folders, run_case
from tools.parity.inference import open_pipeline

from ..bench import Bench, relative
from ..unpack import TOP

GOLDEN = TOP / "tests" / "golden"
HALF_LIMIT = 0.05


def run(bench: Bench) -> None:
    notes = bench.notes
    notes.put(pillow=PIL.__version__)
    _float32(bench)
    with notes.attempt("bfloat16"):
        _bfloat16(bench)


def _cases(bench: Bench, kind: str) -> list[Path]:
    cases = case_folders(GOLDEN, kind)
    return sorted(cases, key=lambda case: "batch2" in case.name)[: bench.sizes.cases]


def _float32(bench: Bench) -> None:
    notes, off, ran = bench.notes, [], 0
    worst: dict[str, dict] = {}
    for kind in ("t2i", "edit", "train"):
        for case in _cases(bench, kind):
            with notes.attempt(case.name):
                found = run_case(case, bench.device)
                ran += 1
                off += [f"{case.name}: {quantity} {found.worst[quantity][0]:.1e}" for quantity in found.failed]
                for quantity, (error, limit) in found.worst.items():
                    key = f"{kind}: {quantity}"
                    if error >= worst.get(key, {"error": -1})["error"]:
                        worst[key] = {"quantity": key, "error": error, "limit": limit, "case": case.name}
    notes.put(cases=ran, worst=list(worst.values()), off=off)
    if off:
        notes.put(failures=[*notes.found.get("failures", []), f"{len(off)} quantities are past their limits"])
    notes.say(f"{ran} cases in float32, {len(off)} quantities past their limits" + (f"; {off[0]}" if off else ""))


@torch.no_grad()
def _bfloat16(bench: Bench) -> None:
    """Each part on the recorded input of its own, so that another token does not spoil what follows."""
    notes, device = bench.notes, bench.device
    worst: dict[str, dict] = {}
    for case in [case for case in _cases(bench, "t2i") if "batch2" not in case.name]:
        golden = json.loads((case / "golden.json").read_text(encoding="utf-8"))
        recorded = load_file(case / "golden.safetensors", device=str(device))
        pipeline = open_pipeline(golden, case, device, torch.bfloat16)
        prompt = recorded["input_ids"]
        ids = recorded["generated_ids"][:, prompt.shape[1] :]
        null, positive = recorded["connector_out"].chunk(2)
        schedule = diffusion.sigmas(golden["steps"], pipeline.checkpoint.shift)
        conditioning = diffusion.Conditioning(positive, null)
        guidance = diffusion.GuidanceSchedule(golden["guidance_scale"])
        hidden = recorded["connector_in"][1:]
        noise, latents = recorded["noise"], recorded["latents_final"]
        pairs = {
            "hidden states": (encode_tokens_unmasked(pipeline.language, Prompts(prompt.tolist()), ids), hidden),
            "connector": (connect(pipeline.language.connector, hidden.bfloat16())[0], positive),
            "latents": (diffusion.sample(pipeline.transformer, noise, conditioning, schedule, guidance), latents),
        }
        if "image_01" in recorded:
            unscaled = latents / pipeline.autoencoder.config.scaling_factor
            image = autoencoder.decode(pipeline.autoencoder, unscaled).movedim(-1, 1)
            pairs["image"] = (image, recorded["image_01"])
        for quantity, pair in pairs.items():
            apart = relative(*pair)
            if apart >= worst.get(quantity, {"apart": -1})["apart"]:
                holds = apart < HALF_LIMIT
                worst[quantity] = {"quantity": quantity, "apart": apart, "holds": holds, "case": case.name}
    notes.put(bfloat16=list(worst.values()))
    notes.say("bfloat16: " + ", ".join(f"{row['quantity']} {row['apart']:.1e}" for row in worst.values()))
    wrong = [row["quantity"] for row in worst.values() if not row["holds"]]
    if wrong:
        raise AssertionError(f"{', '.join(wrong)} past {HALF_LIMIT:.0%} in bfloat16")
