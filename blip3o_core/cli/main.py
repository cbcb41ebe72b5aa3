"""The door: finds the command, runs it, and turns its errors into one line and an exit status.

- 0: done. 1: it failed; the line says why and what to do. 2: the words of the command are wrong. 130: cancelled by
  Ctrl-C; 143, 129: by the signals TERM and HUP. 141: the program that read the output has ended.
- Everything heavy is imported in a command's `run`, after its words are known to be right.
"""

import argparse
import sys
import warnings

from ..errors import Blip3oError, first_line, is_out_of_memory, shown
from . import (
    bench,
    curate,
    diffusion_rl,
    download,
    edit,
    evaluate,
    generate,
    grpo,
    inspect,
    queue,
    recipe,
    reconstruct,
    reward_server,
    rl_report,
    score,
    train,
)
from .ending import Ended, drop_output, end_with_parent, is_worker, signals_raise
from .parser import Parser, UsageError, program, quoted
from .versions import versions


def build_parser() -> Parser:
    parser = Parser(
        prog=program(),
        description="Make and edit images with BLIP3o-NEXT checkpoints, and train and measure them.",
        needs="The command is missing: say what to do.",
        example='blip3o generate --prompt "a red circle above a blue star"',
    )
    parser.add_argument("--version", action="store_true", help="print the versions of this program and its libraries")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    generate.add_command(commands)
    edit.add_command(commands)
    reconstruct.add_command(commands)
    inspect.add_command(commands)
    download.add_command(commands)
    queue.add_command(commands)
    curate.add_command(commands)
    train.add_commands(commands)
    grpo.add_command(commands)
    diffusion_rl.add_command(commands)
    rl_report.add_command(commands)
    score.add_command(commands)
    reward_server.add_command(commands)
    evaluate.add_command(commands)
    recipe.add_command(commands)
    bench.add_command(commands)
    return parser


def main(words: list[str] | None = None) -> int:
    """Run one command -> its exit status. `words`: its words, those of this process when None."""
    words = sys.argv[1:] if words is None else list(words)
    if words == ["--version"]:
        print(versions())
        return 0
    try:
        arguments = _parse(words)
    except SystemExit as leaving:  # --help, or a mistake that the parser has shown
        return int(leaving.code or 0)
    _print_any_character()
    # Sizes and EXIF blocks that Pillow warns of are checked, or ignored and named, by `images.reader`.
    warnings.filterwarnings("ignore", module="PIL")
    if is_worker():
        end_with_parent()
    with signals_raise():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        status = arguments.run(arguments) or 0
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _fail(error, 2)
    except Blip3oError as error:
        return _fail(error, 1)
    except KeyboardInterrupt as cancelled:
        if not is_worker():  # the process that started it says it
            print(arguments.cancelled.format(**vars(arguments)), file=sys.stderr)
        return cancelled.status if isinstance(cancelled, Ended) else 130
    except BrokenPipeError:  # the program that read the output has ended, as with `| head`
        drop_output()
        return 141
    except OSError as error:
        drop_output()
        where = "the output" if error.filename is None else shown(error.filename)
        return _fail(f"{where}: {first_line(error)}. Check that the disk has room and that you may use this place.", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(
            f"There is not enough memory: {first_line(error)}. Choose a smaller --size or --batch, or close other "
            "programs.",
            1,
        )


def _print_any_character() -> None:
    """A name that the output's encoding lacks is printed in part as \\u...; a run does not end because of it."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _parse(words: list[str]) -> argparse.Namespace:
    arguments, others = build_parser().parse_known_args(words)
    # argparse takes no further KEY=VALUE behind an option such as --resume.
    while hasattr(arguments, "overrides") and others and "=" in others[0] and not others[0].startswith("-"):
        arguments.overrides.append(others.pop(0))
    if others:
        arguments.parser.error(f"unexpected {quoted(' '.join(others))}; write a text of several words in quotes")
    arguments.words = words
    return arguments


def _fail(error: Blip3oError | str, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
