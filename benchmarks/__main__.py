"""`python -m benchmarks [decode|render|picture|memory|curves|all] [--quick] [--json FILE]`: tables with the machine."""

import argparse
import json
import sys
from pathlib import Path

import torch

from . import curves, decode, memory, picture, render
from .machine import describe, device_of
from .models import full, tiny

PARTS = ("decode", "render", "picture", "memory", "curves")
STEPS = 20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="fewer runs, and of the full shapes fewer layers")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: the GPU when there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    arguments = parser.parse_args(argv)
    device, runs = device_of(arguments.device), 2 if arguments.quick else 5
    found = {"machine": describe(device), "quick": arguments.quick}
    print("  ".join(f"{name} {value}" for name, value in found["machine"].items()), flush=True)
    chosen = PARTS if arguments.part == "all" else (arguments.part,)
    work = {"decode": _decode, "render": _render, "picture": _picture, "memory": _memory, "curves": curves.run}
    for part in chosen:
        rows = work[part](device, runs, arguments.quick)
        found[part] = {"rows": rows}
        ratios = [row["ratio"] for row in rows if "ratio" in row]
        if ratios:
            found[part]["ratio_vs_reference_path"] = ratios[0]
        print(f"\n{_table(part, rows)}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(arguments.json)
    return 0


def _decode(device, runs: int, quick: bool) -> list[dict]:
    """On a CPU the full shapes write a few tokens, with all layers unless in a hurry."""
    rows = [decode.run(tiny(device, torch.float32), device, None, batch, runs) for batch in (1, 4)]
    cpu = device.type == "cpu"
    large = full(device, torch.bfloat16, layers=4 if cpu and quick else None)
    rows += [decode.run(large, device, 12 if cpu else None, batch, min(runs, 3)) for batch in ((1,) if cpu else (1, 4))]
    return rows


def _render(device, runs: int, quick: bool) -> list[dict]:
    rows = [render.run(tiny(device, torch.float32), device, STEPS, batch, runs) for batch in (1, 4)]
    if device.type != "cpu" or not quick:
        large = full(device, torch.bfloat16, layers=1, render=True)
        rows.append(render.run(large, device, 2 if device.type == "cpu" else 30, 1, 2))
    return rows


def _picture(device, runs: int, quick: bool) -> list[dict]:
    return [picture.run(tiny(device, torch.float32), device, STEPS, batch, runs) for batch in (1, 4)]


def _memory(device, runs: int, quick: bool) -> list[dict]:
    rows = memory.run(tiny(device, torch.float32), device)
    return rows if device.type == "cpu" else rows + memory.run(full(device, torch.bfloat16, render=True), device)


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
