"""`blip3o inspect`: what a checkpoint is and holds."""

import argparse

from .arguments import add_checkpoint_options
from .common import open_checkpoint


def add_command(commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="show what a checkpoint is and holds",
        description="Recognise a checkpoint folder, check the shape of every tensor, and show its sizes and settings.",
        example="blip3o inspect --checkpoint models/BLIP3o-NEXT",
    )
    add_checkpoint_options(parser)
    parser.set_defaults(run=run, parser=parser, cancelled="Cancelled.")


def run(arguments: argparse.Namespace) -> None:
    from ..checkpoint.describe import describe
    from .overview import overview

    checkpoint = open_checkpoint(arguments)
    details = describe(checkpoint)  # checks every tensor first
    print(f"{overview(checkpoint)}\n\n{details}")
