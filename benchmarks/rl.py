"""What GRPO does to the bundled model: each study trains with several seeds and measures on prompts kept back.

    python -m benchmarks.rl --out DIR [--what categories edits mix] [--seeds 3]

- categories: the judge as reward; most prompts are of the weakest categories.
- edits: consistency with the reference, and the judge.
- mix: a narrow reward (large shapes) alone, and together with the judge; both are measured for both.

What is measured was neither trained on nor used to choose a checkpoint. Training seed k is measured with sampling seed
k, and so is the model before. Seeds that were measured are skipped, and an interrupted training goes on. The tables
are in `DIR/result.md`.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from blip3o_core.checkpoint.bundled import resolve_checkpoint
from blip3o_core.files import read_json, write_json
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.consistency import ConsistencyReward
from blip3o_core.seeds import row_seeds
from blip3o_core.tiny import edit_evaluation, evaluation
from blip3o_core.tiny.judge.judge import detect
from blip3o_core.tiny.recipe.grpo import TinyEditGrpoSettings, TinyGrpoSettings
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.edits import edit_kinds, may_change
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tiny.scenes.world import SPLITS, make_scene
from blip3o_core.tiny.tasks import EDIT_WORLD, HELD_OUT_SEED, SEED, WORLD, edit_tasks
from blip3o_core.training.grpo.settings import GrpoSettings
from blip3o_core.training.grpo.train import train
from blip3o_core.training.rl.tasks import Task
from blip3o_core.training.watch import Watch

STEPS, GUIDANCE, BATCH = 5, 1.0, 50  # of the images that are measured
LARGEST = 28.0  # radius, in units, of the largest shape of the world
WEAK = ("color_attr", "background", "two_object")  # the weakest categories have three quarters of the prompts
OTHERS = ("position", "counting", "size")
WEAK_EDITS = ("background", "compose", "replace")
BEFORE = "before"

Numbers = dict[str, float]


# --- tasks and rewards that the studies' settings name ---------------------------------------------------------


def weak_tasks(count: int, split: str, seed: int) -> Sequence[Task]:
    """The world's tasks, mostly of the weakest categories; the best checkpoint is chosen by those alone."""
    train = split == "train"
    order = (*WEAK * 3, *OTHERS) if train else WEAK
    tasks = []
    for index in range(count):
        category = order[index % len(order)]
        scene = make_scene(SEED + seed if train else HELD_OUT_SEED, SPLITS[not train], index, WORLD, category)
        tasks.append(Task(caption(scene, index, not train), category, meta={"spec": spec_of(scene)}))
    return tasks


def weak_edit_tasks(count: int, split: str, seed: int) -> Sequence[Task]:
    """The world's edits, in training mostly of the weakest kinds."""
    if split != "train":
        return edit_tasks(count, split, seed)
    kinds = edit_kinds(EDIT_WORLD)
    by_kind: dict[str, list[Task]] = {kind: [] for kind in kinds}
    order = (*WEAK_EDITS * 3, *(kind for kind in kinds if kind not in WEAK_EDITS))
    rounds = -(-count // len(order))
    for task in edit_tasks(3 * rounds * len(kinds), split, seed):
        by_kind[task.group].append(task)
    given = {kind: iter(tasks) for kind, tasks in by_kind.items()}
    chosen = [next(given[order[index % len(order)]]) for index in range(count)]
    # Consistency knows one reference: without a mask it gives a composition no number.
    return [replace(task, mask=None) if len(task.references) > 1 else task for task in chosen]


class Largeness:
    """A narrow reward: the mean radius of the shapes, as a share of the largest, whatever the prompt asks for."""

    version, range = "1", (0.0, 1.0)

    def __call__(self, images, prompts, references, masks, meta) -> list[float]:
        return [largeness(image.numpy()) for image in images]


def largeness(image) -> float:
    radii = [min(each.radius / LARGEST, 1.0) for each in detect(image).objects]
    return mean(radii) if radii else 0.0


# --- what is measured ------------------------------------------------------------------------------------------


def image_numbers(pipeline: Pipeline, count: int, run: int) -> Numbers:
    """% of right images by category, and how large the shapes are, with the sampling seeds of one run."""
    settings = evaluation.Settings(
        count=count, seeds=1, steps=STEPS, guidance=GUIDANCE, batch=BATCH,
        edition=evaluation.edition_of(pipeline.checkpoint),
    )  # fmt: skip
    stopwatch = evaluation.Stopwatch(pipeline.device)
    right: dict[str, list[bool]] = {name: [] for name in settings.world.categories}
    sizes, prompts = [], evaluation.make_prompts(settings)
    for first in range(0, count, BATCH):
        batch = prompts[first : first + BATCH]
        seeds = row_seeds(run * evaluation.SEED_STRIDE, len(batch), first)
        made, verdicts = evaluation.judge_batch(pipeline, evaluation.CODES, batch, seeds, settings, stopwatch)
        for image, prompt, verdict in zip(made, batch, verdicts, strict=True):
            right[prompt.category].append(verdict.strict)
            sizes.append(largeness(image))
    shares = {name: 100 * mean(each) for name, each in right.items()}
    return {**shares, "mean": mean(shares.values()), "largeness": 100 * mean(sizes)}


def edit_numbers(pipeline: Pipeline, count: int, run: int) -> Numbers:
    """% of right edits by kind and of edits with the right objects, the reward's consistency, the error outside."""
    settings = edit_evaluation.Settings(
        count=count, steps=STEPS, guidance=GUIDANCE, seed=run * evaluation.SEED_STRIDE, batch=BATCH,
        edition=evaluation.edition_of(pipeline.checkpoint),
    )  # fmt: skip
    result = edit_evaluation.evaluate(pipeline, settings, "both")
    side = pipeline.checkpoint.trained_side
    sources = [
        [] if edit.second else [torch.from_numpy(rasterize(edit.source, side)).float() / 255] for edit in result.edits
    ]
    masks = [torch.from_numpy(may_change(edit, side)).float() for edit in result.edits]
    images = [torch.from_numpy(image) for image in result.images]
    found = ConsistencyReward()(images, [""] * count, sources, masks, [{}] * count)
    shares = {name: 100 * share for name, share in result.right.items()}
    return {**shares, "objects": 100 * result.objects["mean"], "error outside": result.outside["mean"],
            "consistency": 100 * mean(each for each in found if each is not None)}  # fmt: skip


# --- the studies -----------------------------------------------------------------------------------------------

# The rest are the defaults of `blip3o grpo` for the tiny world.
_COMMON: dict[str, Any] = {
    "steps": 3, "held_out_steps": 5, "samples": 0, "updates": 20, "warmup": 4, "held_out_every": 10, "save_every": 10,
}  # fmt: skip
_WIDE = {"prompts": 12, "batch": 96, "tasks": "benchmarks.rl:weak_tasks"}
# With `scale_rewards: group` a group of right edits, whose consistency differs by thousandths, counts as much as one
# where some are right: consistency rose, and fewer edits were right.
_EDITS = {"prompts": 12, "batch": 96, "tasks": "benchmarks.rl:weak_edit_tasks", "lr": 3e-4, "updates": 30,
          "scale_rewards": "batch", "held_out": 60, "held_out_every": 15, "save_every": 15,
          "pass_at": None}  # fmt: skip
_SHORT = {"group": 6, "batch": 48, "lr": 4e-4, "kl": 0.01, "held_out": 24, "held_out_every": 20, "save_every": 20,
          "pass_at": None}  # fmt: skip
_STRICT = {"name": "tiny", "options": {"strict": 1.0}}
_NARROW = {"name": "largeness", "use": "benchmarks.rl:Largeness"}


@dataclass(frozen=True)
class Study:
    measure: Callable[[Pipeline, int, int], Numbers]
    count: int  # prompts that are measured
    kind: type[GrpoSettings]
    variants: dict[str, dict[str, Any]]  # settings of each kind of training


STUDIES = {
    "categories": Study(
        image_numbers,
        1000,
        TinyGrpoSettings,
        {"judge": _WIDE},
    ),
    "edits": Study(
        edit_numbers,
        300,
        TinyEditGrpoSettings,
        {"consistency + judge": {"rewards": [{**_STRICT, "weight": 2.0}, "consistency"], **_EDITS}},
    ),
    "mix": Study(
        image_numbers,
        200,
        TinyGrpoSettings,
        {
            "large": {"rewards": [_NARROW], **_SHORT},
            "large + judge": {"rewards": [_NARROW, {**_STRICT, "weight": 2.0}], **_SHORT},
        },
    ),
}


def run(names: Sequence[str], out: Path, seeds: int, **changes: Any) -> str:
    """Train and measure what is missing -> the tables. `changes`: of all settings, and `count` of what is measured."""
    count, text = changes.pop("count", None), []
    for name in names:
        study = STUDIES[name]
        found: dict[str, list[dict]] = {}
        for variant in (BEFORE, *study.variants):
            for seed in range(seeds):
                folder = out / name / variant.replace(" ", "") / f"seed-{seed}"
                result = folder / "numbers.json"
                if not result.is_file():
                    write_json(result, _numbers(study, variant, folder, seed, count or study.count, changes))
                found.setdefault(variant, []).append(read_json(result))
        text += [f"## {name}", "", *table(found), ""]
        out.joinpath("result.md").write_text("\n".join(text), encoding="utf-8")
    return "\n".join(text)


def _numbers(study: Study, variant: str, folder: Path, seed: int, count: int, changes: dict[str, Any]) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, facts = "tiny", dict[str, Any]()
    if variant != BEFORE:
        own = {**_COMMON, **study.variants[variant], **changes}
        settings = study.kind(checkpoint="tiny", out=str(folder / "run"), seed=seed, **own)
        began, spent = time.perf_counter(), time.process_time()
        best = train(settings, Path(settings.out).is_dir(), Watch(_print), own_code=True)
        facts = {"minutes": (time.perf_counter() - began) / 60, "cpu_minutes": (time.process_time() - spent) / 60}
        facts |= {"checkpoint": str(best), **_end_of(Path(settings.out) / "log.jsonl")}
        checkpoint = str(best)
    pipeline = Pipeline.load(resolve_checkpoint(checkpoint), "cpu", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        numbers = study.measure(pipeline, count, seed)
    return {"numbers": numbers, "count": count, **facts}


def _print(entry: dict) -> None:
    print(json.dumps({name: value for name, value in entry.items() if isinstance(value, int | float)}), flush=True)


def _end_of(log: Path) -> Numbers:
    """The KL and entropy of the last updates, and the entropy of the first, in nats per token."""
    entries = [entry for line in log.read_text(encoding="utf-8").splitlines() if "kl" in (entry := json.loads(line))]
    last = entries[-10:]
    return {"kl": mean(each["kl"] for each in last), "entropy": mean(each["entropy"] for each in last),
            "entropy_before": mean(each["entropy"] for each in entries[:3])}  # fmt: skip


def table(found: dict[str, list[dict]]) -> list[str]:
    """Mean and spread (standard deviation) over the seeds, and of the differences, seed by seed."""
    variants, rows = list(found), list(found[BEFORE][0]["numbers"])
    after = variants[1:]
    lines = ["| | " + " | ".join([BEFORE, *(f"{one} | change" for one in after)]) + " |"]
    lines.append("|" + "---|" * (2 + 2 * len(after)))
    for row in rows:
        before = [each["numbers"][row] for each in found[BEFORE]]
        cells = [spread(before)]
        for one in after:
            values = [each["numbers"][row] for each in found[one]]
            cells += [spread(values), spread([b - a for a, b in zip(before, values, strict=True)], "+.1f")]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    for name in ("kl", "entropy", "entropy_before", "cpu_minutes"):
        cells = [cell for one in after for cell in (spread([each[name] for each in found[one]], ".4f"), "")]
        lines.append(f"| {name} | | " + " | ".join(cells) + " |")
    return lines


def spread(values: Sequence[float], style: str = ".1f") -> str:
    middle = format(mean(values), style)
    return middle if len(values) == 1 else f"{middle} ± {format(stdev(values), style.lstrip('+'))}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and the numbers")
    parser.add_argument("--what", nargs="+", choices=STUDIES, default=list(STUDIES), help="studies; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (3)")
    arguments = parser.parse_args(words)
    print(run(arguments.what, arguments.out, arguments.seeds))


if __name__ == "__main__":
    main()
