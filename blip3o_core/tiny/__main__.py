"""`python -m blip3o_core.tiny report`: how good the judge is, measured; `... sheet OUT.png`: a look at the world."""

import argparse
import sys
from pathlib import Path

from ..errors import Blip3oError
from .scenes.rasterize import DEFAULT_SIDE
from .scenes.world import World


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m blip3o_core.tiny", description="The tiny world and its judge.")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="measure the judge on true images and on corrupted ones")
    report.add_argument("--count", type=int, default=2400, help="pictures of each kind and softness (default 2400)")
    sheet = commands.add_parser("sheet", help="write a grid of pictures with their captions")
    sheet.add_argument("out", type=Path, help="PNG to write")
    sheet.add_argument("--what", choices=("scenes", "text", "edits", "corruptions", "degraded"), default="scenes")
    for command in (report, sheet):
        command.add_argument("--side", type=int, default=DEFAULT_SIDE, help=f"pixels (default {DEFAULT_SIDE})")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--continuous", action="store_true", help="any place and radius, not the snapped ones")
    arguments = parser.parse_args(argv)
    world = World(snapped=not arguments.continuous)
    try:
        if arguments.command == "report":
            from .judge.report import measure

            text, holds = measure(arguments.count, arguments.side, arguments.seed, world)
            print(text)
            return 0 if holds else 1
        from PIL import Image

        from .judge.contact_sheet import examples, make_contact_sheet

        page = make_contact_sheet(*examples(arguments.what, arguments.side, arguments.seed, world))
        Image.fromarray(page).save(arguments.out)
        print(arguments.out)
    except Blip3oError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
