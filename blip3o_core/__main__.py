"""`python -m blip3o_core`: the library from the command line."""

import argparse
import sys

from .checkpoint.bundled import resolve_checkpoint
from .cli.common import add_checkpoint_options
from .cli.edit import add_edit_command
from .cli.evaluate import add_evaluate_command
from .cli.generate import add_generate_command
from .cli.reconstruct import add_reconstruct_command
from .cli.train import add_train_command
from .errors import Blip3oError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m blip3o_core", description="Draw pictures with BLIP3o-NEXT checkpoints."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_generate_command(commands)
    add_edit_command(commands)
    add_reconstruct_command(commands)
    add_inspect_command(commands)
    add_train_command(commands)
    add_evaluate_command(commands)
    return parser


def add_inspect_command(commands) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="say what a checkpoint is",
        description="Recognise a checkpoint folder and check every tensor's shape.",
    )
    add_checkpoint_options(inspect)
    inspect.set_defaults(run=run_inspect)


def run_inspect(arguments: argparse.Namespace) -> None:
    from .checkpoint.checkpoint import open_checkpoint
    from .checkpoint.describe import describe

    print(describe(open_checkpoint(resolve_checkpoint(arguments.checkpoint), arguments.diffusion_folder)))


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else argv
    try:
        return arguments.run(arguments) or 0
    except Blip3oError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; every picture named above is whole", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
