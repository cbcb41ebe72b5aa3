"""The parts of `blip3o bench`, each a list of rows with numbers; the command names and explains them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from blip3o_core.cli.bench import APART

from . import (
    best_of,
    curation,
    curves,
    data,
    decode,
    diffusion_rl,
    drafts,
    host,
    image,
    memory,
    render,
    rewards,
    rl_memory,
    shortcuts,
    speculative,
)
from .machine import describe, device_of
from .models import full, tiny

STEPS = 20


def run(names: tuple[str, ...], device: str, quick: bool, plot: Path | None) -> dict:
    """Measure the named parts and print a table for each -> the machine, and the rows of each part.

    `quick`: fewer runs, and fewer layers of the full shapes. `plot`: the folder to write the images of the curves to.
    """
    place, runs = device_of(device), 2 if quick else 5
    machine = describe(place)
    found: dict[str, Any] = {"machine": machine, "quick": quick}
    print("  ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    work = _work(machine["copy_gb_per_s"] * 1e9)
    for name in names:
        rows = work[name](place, runs, quick)
        found[name] = {"rows": rows}
        ratios = [row["ratio"] for row in rows if "ratio" in row]
        if ratios and name not in APART:
            found[name]["ratio_vs_reference_path"] = ratios[0]
        if name == "decode" and place.type == "cuda":
            alone, four = (next(r for r in rows if r["model"] != "tiny" and r["batch"] == n) for n in (1, 4))
            found[name]["four_drafts_over_one"] = four["ours_s"] / alone["ours_s"]
        print(f"\n{_table(name, rows)}", flush=True)
        if name == "curves" and plot is not None:
            print(*curves.plot(rows, plot), sep="\n")
    return found


def _work(copy: float) -> dict[str, Callable[..., list[dict]]]:
    """`copy`: bytes per second that the machine reads and writes."""
    return {
        "decode": partial(_decode, copy=copy),
        "engines": partial(_engines, copy=copy),
        "render": _render,
        "variants": _variants,
        "image": _image,
        "memory": _memory,
        "curves": curves.run,
        "host": host.run,
        "shortcuts": shortcuts.run,
        "speculative": speculative.run,
        "data": data.run,
        "curation": curation.run,
        "diffusion_rl": diffusion_rl.run,
        "drafts": drafts.run,
        "rewards": rewards.run,
        "best_of": best_of.run,
        "best_of_edits": best_of.run_edits,
        "rl_memory": lambda device, runs, quick: [*rl_memory.run(), *rl_memory.run(batch=16), *rl_memory.operations()],
    }


def _decode(device, runs: int, quick: bool, copy: float) -> list[dict]:
    """On a CPU the full shapes write only a few tokens; with `quick` they have four layers."""
    rows = [decode.run(tiny(device, torch.float32), device, None, batch, runs, copy) for batch in (1, 4)]
    cpu = device.type == "cpu"
    large = full(device, torch.bfloat16, layers=4 if cpu and quick else None)
    batches, tokens = ((1,), 12) if cpu else ((1, 4), None)
    return rows + [decode.run(large, device, tokens, batch, min(runs, 3), copy) for batch in batches]


def _engines(device, runs: int, quick: bool, copy: float) -> list[dict]:
    rows = decode.engines(tiny(device, torch.float32), device, None, runs, copy)
    if device.type == "cpu" and quick:
        return rows
    cpu = device.type == "cpu"
    large = full(device, torch.bfloat16, layers=4 if cpu else None)
    return rows + decode.engines(large, device, 12 if cpu else None, min(runs, 3), copy)


def _render(device, runs: int, quick: bool) -> list[dict]:
    rows = [render.run(tiny(device, torch.float32), device, STEPS, batch, runs) for batch in (1, 4)]
    if device.type != "cpu" or not quick:
        large = full(device, torch.bfloat16, layers=1, render=True)
        rows.append(render.run(large, device, 2 if device.type == "cpu" else 30, 1, 2))
    return rows


def _variants(device, runs: int, quick: bool) -> list[dict]:
    model = tiny(device, torch.float32)
    return [row for batch in (1, 4) for row in render.variants(model, device, STEPS, batch, runs)]


def _image(device, runs: int, quick: bool) -> list[dict]:
    rows = [image.run(tiny(device, torch.float32), device, STEPS, batch, runs) for batch in (1, 4)]
    if device.type == "cuda":
        large = full(device, torch.bfloat16, render=True)
        rows += [image.run(large, device, 30, batch, 2) for batch in (1, 4)]
    return rows


def _memory(device, runs: int, quick: bool) -> list[dict]:
    rows = memory.run(tiny(device, torch.float32), device)
    if device.type == "cpu":
        return rows + memory.published()
    return rows + memory.run(full(device, torch.bfloat16, render=True), device)


def _table(title: str, rows: list[dict]) -> str:
    """A Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"**{title}**", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = (row.get(name) for name in names)
        lines.append("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)
