"""`python -m blip3o_core.tiny.recipe [STAGE ...] [--out DIR]`: make the bundled tiny model, or one stage of it.

`--quick`: a smaller one, from nothing in ten minutes on two cores.
"""

import argparse
import sys
from pathlib import Path

from ...errors import Blip3oError


def main(argv: list[str] | None = None) -> int:
    from . import quick
    from .stages import STAGES, Recipe, run

    parser = argparse.ArgumentParser(
        prog="python -m blip3o_core.tiny.recipe",
        description="Make the bundled tiny model. A stage that was cut off goes on where it was.",
        epilog="Set OMP_NUM_THREADS=1 and run independent stages side by side: matrices this small gain little from "
        "a second thread. docs/tiny.md has the order, the minutes and the numbers.",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)} (default: all, in order)")
    parser.add_argument("--out", type=Path, help="folder of all results (runs/tiny, or runs/quick)")
    parser.add_argument("--quick", action="store_true", help="ten minutes: fewer stages and steps, a smaller world")
    parser.add_argument("--share", type=float, default=1.0, help="of every stage's steps (default 1)")
    arguments = parser.parse_args(argv)
    if arguments.quick and arguments.stages:
        parser.error("--quick runs stages of its own; name none.")
    try:
        if arguments.quick:
            _print_quick(quick.run(quick.Quick(arguments.out or Path("runs/quick"), _print, arguments.share)))
            return 0
        recipe = Recipe(arguments.out or Path("runs/tiny"), _print, arguments.share)
        for stage in arguments.stages or STAGES:
            numbers = run(stage, recipe)
            print(f"{stage}: " + "  ".join(f"{name} {value:.3f}" for name, value in numbers.items()), flush=True)
    except Blip3oError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print(entry: dict) -> None:
    print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()), flush=True)


def _print_quick(record: dict) -> None:
    for stage, curve in record["stages"].items():
        loss, minutes = curve["loss"], record["cpu_minutes"][stage]
        print(f"{stage}: cpu_minutes {minutes:.1f}  loss {loss[0]:.4f} -> {loss[-1]:.4f}")
    print("right: " + "  ".join(f"{category} {share:.3f}" for category, share in record["accuracy"].items()))


if __name__ == "__main__":
    sys.exit(main())
