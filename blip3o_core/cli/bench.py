"""`blip3o bench`: speed and memory, measured on this machine. The benchmarks themselves are in a checkout only."""

import argparse
import importlib
import sys
from pathlib import Path

from ..errors import Blip3oError
from ..files import check_writable, write_json
from .common import report

PARTS = {
    "decode": "image tokens per second, and the authors' code in turn",
    "engines": "the engines that write image tokens",
    "render": "the diffusion, and the authors' code in turn",
    "variants": "number formats and memory layouts of the diffusion transformer",
    "image": "whole images, and the authors' code in turn",
    "memory": "bytes of each part and of its work",
    "curves": "what prompt length, batch and image size cost",
    "host": "what ComfyUI adds; needs ComfyUI",
    "shortcuts": "fewer diffusion steps, and guidance in some of them",
    "speculative": "image tokens guessed several at a time",
    "data": "training data: memory of its items, steps whose data is read ahead, and shard folders",
    "curation": "curation by processes and by Ray beside a plain loop; needs the extra cluster",
    "diffusion_rl": "both methods of RL on the bundled model's diffusion; about ten CPU minutes",
    "drafts": "finishing a chosen draft, and rough renders while tokens are written; needs ComfyUI",
    "best_of": "how often the best of several images is right, by rewards; about 20 CPU minutes",
    "best_of_edits": "the same of edits",
    "rl_memory": "what reinforcement learning of the published shapes needs; computed, not measured",
    "rewards": "what the built-in rewards give to images of known worth, and how long they take; needs the extra ocr",
}
# Not part of "all": they need ComfyUI, compare the bundled model with itself, or are about training.
APART = (
    "host",
    "shortcuts",
    "speculative",
    "data",
    "curation",
    "diffusion_rl",
    "drafts",
    "best_of",
    "best_of_edits",
    "rewards",
    "rl_memory",
)
TOP = Path(__file__).parents[2]


def add_command(commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed and memory",
        description="Measure speed and memory on this machine and print the numbers as Markdown tables.\nRun it in a "
        "checkout of this project: an installed package does not have the benchmarks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:13} {what}" for name, what in PARTS.items()),
    )
    parser.add_argument(
        "part",
        nargs="?",
        choices=(*PARTS, "all"),
        default="all",
        metavar="PART",
        help=f"what to measure (default: all, without {', '.join(APART)})",
    )
    parser.add_argument("--quick", action="store_true", help="fewer runs, and fewer layers of the full-size models")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: the GPU when there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write images of the curves to this folder")
    parser.set_defaults(run=run, parser=parser, cancelled="Cancelled. Only the files listed above are complete.")


def run(arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        check_writable([arguments.json], "--json")
    if arguments.plot is not None:
        check_writable([arguments.plot / "curves.png"], "--plot")
    names = tuple(name for name in PARTS if name not in APART) if arguments.part == "all" else (arguments.part,)
    found = benchmarks().run(names, arguments.device, arguments.quick, arguments.plot)
    if arguments.json is not None:
        write_json(arguments.json, found)
        report(arguments.json)


def benchmarks():
    """The module of the benchmarks, which lies beside this package in a checkout."""
    if not (TOP / "benchmarks" / "parts.py").is_file():
        raise Blip3oError(
            f"The benchmarks are not part of the installed package ({TOP} has none). Run the command in a checkout of "
            "this project: python -m blip3o_core bench."
        )
    if str(TOP) not in sys.path:
        sys.path.insert(0, str(TOP))
    return importlib.import_module("benchmarks.parts")
