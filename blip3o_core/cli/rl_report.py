"""`blip3o rl-report`: one HTML file about a run of reinforcement learning."""

import argparse
from pathlib import Path

from .common import needs_extra, report


def add_command(commands) -> None:
    parser = commands.add_parser(
        "rl-report",
        help="show a run of reinforcement learning as a page",
        description="Write one HTML file about a run of reinforcement learning: the curves of its rewards, the "
        "held-out tasks, alarms, where the time went, and images of the same seeds before and after. The file holds "
        "everything it shows. A run writes it itself when it ends; this command also serves while it works.",
        needs="rl-report needs the folder of a run.",
        example="blip3o rl-report runs/grpo",
    )
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="the folder that `out` names in the run's settings"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the HTML file to write (default: report.html in the folder of the run)",
    )
    parser.set_defaults(run=run, parser=parser, cancelled="Cancelled. Nothing was written.")


def run(arguments: argparse.Namespace) -> None:
    with needs_extra("train"):
        from ..training.rl.report import write_report

    report(write_report(arguments.run_folder, arguments.out))
