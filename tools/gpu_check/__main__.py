"""`python -m tools.gpu_check prepare`, with a network; `python -m tools.gpu_check run --out DIR`, with a card."""

import argparse
import sys
import tempfile
from pathlib import Path

from . import report
from .stages import STAGES
from .unpack import TOP, Unpacked, environment, unpack
from .watcher import Watch

CARRIED = TOP / ".gpu"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="fill .gpu/ with what the machine with the card lacks")
    prepare.add_argument("--no-comfyui", action="store_true", help="leave out ComfyUI; stage host cannot run")
    prepare.add_argument(
        "--no-kernels", action="store_true", help="leave out compiled kernels; each costs 10-45 s there"
    )
    prepare.add_argument("--capability", default="90", help="of the card, as 90 for 9.0: Hopper (default), 80, 120")
    prepare.add_argument("--to", type=Path, default=CARRIED, metavar="DIR", help="default: .gpu in the checkout")
    run = commands.add_parser("run", help="check what can be checked in the time, most valuable first")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="for results.json and results.md")
    run.add_argument("--budget", type=float, default=540, metavar="SECONDS", help="for everything (default: 540)")
    run.add_argument("--stages", default=",".join(STAGES), help=f"comma-separated, default: {','.join(STAGES)}")
    run.add_argument("--cpu-dry-run", action="store_true", help="tiny sizes on the CPU: does it still fit the code?")
    run.add_argument("--carried", type=Path, default=CARRIED, metavar="DIR", help="what prepare filled, default: .gpu")
    asked = parser.parse_args(arguments)
    if asked.command == "prepare":
        from .prepare import prepare as fill

        return fill(asked.to, not asked.no_comfyui, not asked.no_kernels, asked.capability)
    unknown = [name for name in asked.stages.split(",") if name not in STAGES]
    if unknown:
        parser.error(f"--stages names {', '.join(unknown)}. Choose from {', '.join(STAGES)}.")
    return check(asked)


def check(asked: argparse.Namespace) -> int:
    """Exit status 0 when every stage that was asked for ended ok."""
    dry = asked.cpu_dry_run
    stages = {name: STAGES[name] for name in STAGES if name in asked.stages.split(",")}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        unpacked = Unpacked()
        results: dict[str, dict] = {}
        try:
            unpacked = unpack(asked.carried, Path(folder))
        except Exception as error:  # most stages can do without
            results["unpack"] = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        else:
            results["unpack"] = {"status": "ok", **unpacked.notes}
        command = [unpacked.python, "-m", "tools.gpu_check.worker", *(["--dry"] if dry else [])]
        watch = Watch(
            command, stages, asked.out, asked.budget, environment(unpacked.environment, dry),
            patience=20 if dry else 1, results=results,
        )  # fmt: skip
        found = watch.run()
    print(report.summary(found, watch.seconds))
    return 0 if all(each["status"] == "ok" for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
