"""What data quality is worth: one budget of training on raw data, on what `blip3o curate` keeps of it, on good data.

    python -m benchmarks.data_quality --out DIR [--seeds 3] [--checkpoint DIR]

The raw data are scenes of the tiny world with their captions, of which 40 % are spoilt: a caption of another scene, a
copy of an image that is there already, a blurred image. The engine sees nothing of that plan; its limits are in
`curation`. Every training starts from one checkpoint, the bundled model or another of the recipe, and sees as many
images, in the edition of the world that the checkpoint knows. What is measured are images of prompts kept back, by the
world's judge. Seeds that were measured are skipped; the tables are in `DIR/result.md`, settings and machine in
`DIR/record.json`.
"""

import argparse
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import SHORT_NAME, display_name, resolve_checkpoint
from blip3o_core.curation.engine import curate
from blip3o_core.curation.settings import CurationSettings
from blip3o_core.errors import Blip3oError
from blip3o_core.files import read_json, read_optional_json, write_json
from blip3o_core.pipeline import Pipeline
from blip3o_core.shards.manifest import write_manifest
from blip3o_core.shards.write import Record, write_shard
from blip3o_core.tiny.evaluation import SIDES, edition_of
from blip3o_core.tiny.recipe.quick import machine
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.world import World, make_scene
from blip3o_core.tiny.tasks import WORLD
from blip3o_core.training.config import TrainingConfig
from blip3o_core.training.trainer import train

from . import rl

PAIRS, COUNT = 2000, 400  # pairs of the raw data; prompts that are measured
SPOILT = {"caption": 0.2, "copy": 0.1, "blur": 0.1}  # shares of the pairs
SCENES = 71  # seed of the scenes; no stage has it
TRAINING: dict[str, Any] = {
    "train": {"language": 3e-4, "connector": 3e-4, "sana": 1e-4}, "steps": 120, "batch": 32,
    "warmup": 10, "final_lr": 0.05, "bf16": True, "device": "cpu", "save_every": 120, "keep": 1, "log_every": 10,
}  # fmt: skip
GOOD, RAW, KEPT = "good", "raw", "curated"


def plan(seed: int) -> list[str]:
    """What becomes of each pair: "good", or how it is spoilt. The first is good: a copy needs an image before it."""
    spoilt = [name for name, share in SPOILT.items() for _ in range(round(share * PAIRS))]
    kinds = np.array([*spoilt, *[GOOD] * (PAIRS - 1 - len(spoilt))])
    return [GOOD, *np.random.default_rng(seed).permutation(kinds).tolist()]


def curation(edition: int) -> dict[str, Any]:
    """Limits of the engine, which sees nothing of the plan."""
    return {
        "keep": {"min_side": SIDES[edition], "min_sharpness": 10, "min_contrast": None},
        "duplicates": {"distance": 0},
        "judges": [{"name": "tiny", "min": 1.0}],
    }


def pairs(seed: int, spoilt: bool, edition: int = 2) -> Iterator[Record]:
    """The raw data, or as many good pairs."""
    rng = np.random.default_rng([seed, 1])
    kinds = plan(seed)
    for index, kind in enumerate(kinds):
        scene, text = _pair(seed, index, edition)
        image = Image.fromarray(rasterize(scene, SIDES[edition]))
        if spoilt and kind == "caption":
            others = (_pair(seed, index + k * PAIRS, edition)[1] for k in range(1, PAIRS))
            text = next(other for other in others if other != text)
        elif spoilt and kind == "copy":
            good = [k for k in range(index) if kinds[k] == GOOD]
            scene, text = _pair(seed, int(rng.choice(good)), edition)
            image = Image.fromarray(rasterize(scene, SIDES[edition]))
        elif spoilt and kind == "blur":
            image = image.filter(ImageFilter.GaussianBlur(3 * SIDES[edition] / SIDES[1]))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        yield Record(f"{index:05d}", stream.getvalue(), texts=(text,), facts={"planted": kind if spoilt else GOOD})


def _pair(seed: int, index: int, edition: int):
    # Square images alone: the training crops others.
    world = WORLD if edition == 2 else World(low_contrast=False, coloured=WORLD.coloured)
    scene = make_scene(SCENES + seed, "train", index, world)
    return scene, caption(scene, index, True)


def make_data(folder: Path, seed: int, edition: int = 2) -> dict[str, Any]:
    """Raw, curated and good data in `folder` -> what the engine kept of each kind that was planted."""
    for name in (RAW, GOOD):
        if not (folder / name / "manifest.json").is_file():
            write_manifest(folder / name, [write_shard(folder / name / "pairs.tar", pairs(seed, name == RAW, edition))])
    own: dict[str, Any] = {"sources": str(folder / RAW / "pairs.tar"), "out": str(folder / KEPT), **curation(edition)}
    curate(CurationSettings(**own))
    kinds = plan(seed)
    lines = (folder / KEPT / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    dropped = Counter(kinds[int(json.loads(line)["key"])] for line in lines)
    return {f"{kind} kept": count - dropped[kind] for kind, count in sorted(Counter(kinds).items())}


def measure(folder: Path, checkpoint: str, variant: str, seed: int, steps: int, count: int) -> dict[str, Any]:
    """Train a checkpoint on one kind of data, or on none, and judge images of prompts kept back."""
    facts = dict[str, Any]()
    if variant != rl.BEFORE:
        data = folder / "data" / (f"{KEPT}/shards" if variant == KEPT else variant)
        own = {**TRAINING, "warmup": min(TRAINING["warmup"], steps), "steps": steps, "save_every": steps, "seed": seed}
        own |= {
            "checkpoint": checkpoint,
            "data": str(data),
            "out": str(folder / variant / "run"),
            "cache": str(folder / "cache"),
        }
        began = time.process_time()
        checkpoint = str(train(TrainingConfig(**own), Path(own["out"]).is_dir()))
        facts = {"cpu_minutes": (time.process_time() - began) / 60}
    pipeline = Pipeline.load(resolve_checkpoint(checkpoint), "cpu", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        return {"numbers": rl.image_numbers(pipeline, count, seed), **facts}


def run(out: Path, seeds: int, steps: int = TRAINING["steps"], count: int = COUNT, checkpoint: str = SHORT_NAME) -> str:
    """Make, train and measure what is missing -> the tables."""
    opened = open_checkpoint(resolve_checkpoint(checkpoint))
    edition = edition_of(opened)
    settings = {"checkpoint": opened.identity, "edition": edition, "steps": steps, "count": count, "pairs": PAIRS,
                "diffusion": {"steps": rl.STEPS, "guidance": rl.GUIDANCE}, "training": TRAINING}  # fmt: skip
    record = out / "record.json"
    if read_optional_json(record).get("settings", settings) != settings:
        raise Blip3oError(f"{record} belongs to a different checkpoint or other settings. Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(record, {"settings": settings, "name": display_name(opened.folder), "machine": machine()})
    found: dict[str, list[dict]] = {}
    kept = []
    for seed in range(seeds):
        folder = out / f"seed-{seed}"
        facts = folder / "kept.json"
        if not facts.is_file():
            write_json(facts, make_data(folder / "data", seed, edition))
        kept.append(read_json(facts))
        for variant in (rl.BEFORE, RAW, KEPT, GOOD):
            result = folder / variant / "numbers.json"
            if not result.is_file():
                result.parent.mkdir(parents=True, exist_ok=True)
                write_json(result, measure(folder, checkpoint, variant, seed, steps, count))
            found.setdefault(variant, []).append(read_json(result))
            print(seed, variant, found[variant][-1], flush=True)
    planted = Counter(plan(0))
    lines = [f"- {kind}: {planted[kind]} planted, kept " + ", ".join(str(one[f"{kind} kept"]) for one in kept)
             for kind in sorted(planted)]  # fmt: skip
    text = "\n".join([*lines, "", *table(found), ""])
    out.joinpath("result.md").write_text(text, encoding="utf-8")
    return text


def table(found: dict[str, list[dict]]) -> list[str]:
    """% of right images: mean and standard deviation over the seeds."""
    lines = ["| % right | " + " | ".join(found) + " |", "|" + "---|" * (1 + len(found))]
    for row in found[rl.BEFORE][0]["numbers"]:
        cells = [rl.spread([one["numbers"][row] for one in some]) for some in found.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_quality", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the data, the trainings and the numbers")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (3)")
    parser.add_argument("--checkpoint", default=SHORT_NAME, help="where trainings start (the bundled model)")
    arguments = parser.parse_args(words)
    print(run(arguments.out, arguments.seeds, checkpoint=arguments.checkpoint))


if __name__ == "__main__":
    main()
