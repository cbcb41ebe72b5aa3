"""`python -m benchmarks [PART|all] [--quick] [--json FILE] [--plot FOLDER]`: tables, with the machine.

decode, render, picture: this library against the authors' way, by turns. engines, variants: ways to decode, and to hold
the diffusion transformer. curves: what length, batch and size cost. memory: bytes. host: what ComfyUI adds.
shortcuts: fewer steps, and guidance in a part of them. speculative: tokens guessed ahead, against one by one.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from . import curves, decode, host, memory, picture, render, shortcuts, speculative
from .machine import describe, device_of
from .models import full, tiny

PARTS = ("decode", "engines", "render", "variants", "picture", "memory", "curves")
APART = ("host", "shortcuts", "speculative")  # not part of "all": ComfyUI, or the bundled model's own ways
STEPS = 20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=(*PARTS, *APART, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="fewer runs, and of the full shapes fewer layers")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: the GPU when there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the curves into this folder")
    arguments = parser.parse_args(argv)
    device, runs = device_of(arguments.device), 2 if arguments.quick else 5
    found = {"machine": describe(device), "quick": arguments.quick}
    print("  ".join(f"{name} {value}" for name, value in found["machine"].items()), flush=True)
    chosen = PARTS if arguments.part == "all" else (arguments.part,)
    copy = found["machine"]["copy_gb_per_s"] * 1e9
    work: dict[str, Callable[..., list[dict]]] = {
        "decode": partial(_decode, copy=copy), "engines": partial(_engines, copy=copy), "render": _render,
        "variants": _variants, "picture": _picture, "memory": _memory, "curves": curves.run, "host": host.run,
        "shortcuts": shortcuts.run, "speculative": speculative.run,
    }  # fmt: skip
    for part in chosen:
        rows = work[part](device, runs, arguments.quick)
        found[part] = {"rows": rows}
        ratios = [row["ratio"] for row in rows if "ratio" in row]
        if ratios and part not in APART:
            found[part]["ratio_vs_reference_path"] = ratios[0]
        if part == "decode" and device.type == "cuda":
            alone, four = (next(r for r in rows if r["model"] != "tiny" and r["batch"] == n) for n in (1, 4))
            found[part]["four_drafts_over_one"] = four["ours_s"] / alone["ours_s"]
        print(f"\n{_table(part, rows)}", flush=True)
        if part == "curves" and arguments.plot is not None:
            print(*curves.plot(rows, arguments.plot), sep="\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(arguments.json)
    return 0


def _decode(device, runs: int, quick: bool, copy: float) -> list[dict]:
    """On a CPU the full shapes write a few tokens, with all layers unless in a hurry."""
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


def _picture(device, runs: int, quick: bool) -> list[dict]:
    rows = [picture.run(tiny(device, torch.float32), device, STEPS, batch, runs) for batch in (1, 4)]
    if device.type == "cuda":
        large = full(device, torch.bfloat16, render=True)
        rows += [picture.run(large, device, 30, batch, 2) for batch in (1, 4)]
    return rows


def _memory(device, runs: int, quick: bool) -> list[dict]:
    rows = memory.run(tiny(device, torch.float32), device)
    if device.type == "cpu":
        return rows + memory.published()
    return rows + memory.run(full(device, torch.bfloat16, render=True), device)


def _table(title: str, rows: list[dict]) -> str:
    """Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"**{title}**", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = (row.get(name) for name in names)
        lines.append("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
