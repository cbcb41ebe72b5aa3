"""`blip3o evaluate compare`: runs of one task side by side."""

import argparse
from pathlib import Path

from ..files import check_writable
from .arguments import whole
from .common import CANCELLED_ONE, report, say
from .parser import Parser, UsageError

WORD = "compare"


def add_inner(parser: Parser) -> None:
    parser = parser.add_inner(
        WORD,
        description="Compare runs of `blip3o evaluate` on one task with the first of them. Prints tables: what differs "
        "between the runs, every measure by category with 95 % intervals, and the differences over the same items and "
        "seeds. --out writes a page with plots and images of the same items as well.",
        needs="compare needs the folders of two runs or more.",
        example="blip3o evaluate compare output/evaluate/before output/evaluate/after --out compared.html",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder that `blip3o evaluate` wrote")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="also write one HTML file that holds everything")
    parser.add_argument(
        "--images",
        type=whole(0, 1000),
        default=24,
        metavar="N",
        help="items whose images stand side by side on the page: half of them those that differ most (default: "
        "%(default)s)",
    )
    parser.set_defaults(run=run, parser=parser, cancelled=CANCELLED_ONE)


def run(arguments: argparse.Namespace) -> None:
    from ..evaluation.compare import compare
    from ..evaluation.compare_report import markdown, write_report

    if len(arguments.runs) < 2:
        raise UsageError("One run cannot be compared. Give the folders of two runs or more.")
    if arguments.out:
        check_writable([arguments.out])
    comparison = compare(arguments.runs)
    for words in comparison.warnings:
        say(f"warning: {words}")
    if arguments.out:
        write_report(comparison, arguments.out, arguments.images)
    print(markdown(comparison), end="", flush=True)
    if arguments.out:
        report(arguments.out)
