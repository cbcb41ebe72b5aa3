"""`blip3o recipe`: makes the bundled model from nothing, measures its judge, and shows its world."""

import argparse
import math
from pathlib import Path

from ..files import check_writable
from . import recipe_insights, recipe_parts
from .arguments import number, png_file, positive, seed, whole
from .common import CANCELLED_ONE, needs_extra, open_named, print_entry, report
from .device import device_of
from .parser import UsageError

# In the order in which they run
STAGES = (
    "autoencoder",
    "decoder",
    "image_tokenizer",
    "language",
    "renderer",
    "connector",
    "data",
    "align",
    "references",
    "joint",
    "release",
    "grpo",
)
SIDE = 128  # pixels of a square image


def add_command(commands) -> None:
    parser = commands.add_parser(
        "recipe",
        help="make the bundled model from nothing, or look at its world",
        description="The recipe of the bundled model. docs/tiny.md describes its stages, its world and its judge.",
        needs="recipe needs to know what: tiny makes the model, parts finds the part that errs, "
        "insights compares checkpoints, report measures the judge, sheet shows the world.",
        example="blip3o recipe sheet --out world.png",
    )
    parser.set_defaults(parser=parser)
    recipes = parser.add_subparsers(dest="recipe", required=True, metavar="WHAT")
    _add_tiny(recipes)
    recipe_parts.add_command(recipes)
    recipe_insights.add_command(recipes)

    report = recipes.add_parser(
        "report",
        help="measure the judge of the tiny world",
        description="Measure how many correct images the judge accepts and how many wrong ones it catches. The command "
        "ends with status 1 when a limit is missed.",
    )
    report.add_argument(
        "--count",
        type=positive,
        default=2400,
        help="images of each kind and degradation (default: %(default)s)",
    )
    _add_world_options(report)
    report.set_defaults(run=run_report, parser=report, cancelled="Cancelled.")

    sheet = recipes.add_parser(
        "sheet",
        help="show the tiny world",
        description="Write a grid of images of the tiny world with their captions.",
        needs="sheet needs the name of the result: --out FILE.png.",
        example="blip3o recipe sheet --out world.png",
    )
    sheet.add_argument("--out", type=png_file, required=True, metavar="FILE.png", help="PNG file to write")
    sheet.add_argument(
        "--what",
        choices=("scenes", "text", "edits", "corruptions", "degraded"),
        default="scenes",
        help="what the images show (default: %(default)s)",
    )
    _add_world_options(sheet)
    sheet.set_defaults(run=run_sheet, parser=sheet, cancelled=CANCELLED_ONE)


def _add_tiny(recipes) -> None:
    parser = recipes.add_parser(
        "tiny",
        help="make the bundled model",
        description="Make the bundled model from nothing: all stages in order, or only those you name. A stage that "
        "was stopped continues where it was.",
        epilog="docs/tiny.md has the order of the stages, their times and their numbers. Stages that do not need each "
        "other can run at the same time, each in a process of its own.",
    )
    parser.add_argument(
        "stages", nargs="*", type=_stage, metavar="STAGE", help=f"{', '.join(STAGES)} (default: all, in this order)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for all results (default: runs/tiny, with --quick runs/quick)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="make a smaller model in ten minutes on two cores: fewer stages and steps, a smaller world. --out must be "
        "an empty or new folder",
    )
    parser.add_argument(
        "--share",
        type=number(float, "above 0", lambda value: 0 < value < math.inf),
        default=1.0,
        help="share of each stage's steps to run; below 1 the stages' gates are not enforced (default: %(default)s)",
    )
    parser.add_argument(
        "--longer",
        type=positive,
        default=0,
        metavar="N",
        help="with the name of one stage: train it for N steps more than its own, even if it has ended",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="DIR",
        help="a bundled model, of the first edition too, whose language model the stage 'language' continues, in half "
        "the steps",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the parts are trained; auto: the GPU when there is one. --quick stays on the CPU (default: "
        "%(default)s)",
    )
    parser.set_defaults(
        run=run_tiny, parser=parser, cancelled="Cancelled. The same command continues the stage that was stopped."
    )


def _stage(text: str) -> str:
    """The type of a STAGE: argparse refuses `choices` for an argument that may be left out."""
    if text not in STAGES:
        raise argparse.ArgumentTypeError(f"unknown stage {text!r}; the stages are {', '.join(STAGES)}")
    return text


def _add_world_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--side",
        type=whole(8, 4096),
        default=SIDE,
        help="side of square images in pixels (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the scenes (default: %(default)s)")


def run_tiny(arguments: argparse.Namespace) -> None:
    _check(arguments)
    with needs_extra("train"):
        from ..tiny.recipe import quick, stages
        from ..tiny.recipe.recipe import Recipe

    if arguments.quick:
        out = arguments.out or Path("runs/quick")
        arguments.cancelled = f"Cancelled. Delete {out} before you run the command again: --quick starts from nothing."
        _print_quick(quick.run(quick.Quick(out, print_entry, arguments.share)))
        return
    out = arguments.out or Path("runs/tiny")
    if arguments.start:  # a wrong folder is said now, not when the stages before `language` have run for hours
        arguments.start = open_named(str(arguments.start)).folder
    device = device_of(arguments.device).type
    recipe = Recipe(out, print_entry, arguments.share, arguments.start, device, arguments.longer)
    for stage in arguments.stages or STAGES:
        numbers = stages.run(stage, recipe)
        print(f"{stage}: " + "  ".join(f"{name} {value:.3f}" for name, value in numbers.items()), flush=True)


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options of `recipe tiny` that do not go together."""
    if arguments.quick and arguments.stages:
        raise UsageError("--quick has stages of its own. Leave out the names of stages, or leave out --quick.")
    if arguments.quick and arguments.device == "cuda":
        raise UsageError("--quick is made on the CPU. Leave out --device, or leave out --quick.")
    if arguments.quick and arguments.start:
        raise UsageError("--quick starts from nothing. Leave out --start, or leave out --quick.")
    if arguments.longer and (len(arguments.stages) != 1 or arguments.stages[0] in ("data", "release")):
        raise UsageError("--longer trains one stage on. Name that stage alone; data and release train nothing.")


def run_report(arguments: argparse.Namespace) -> int:
    with needs_extra("train"):
        from ..tiny.judge.report import measure
        from ..tiny.scenes.world import SECOND

    text, holds = measure(arguments.count, arguments.side, arguments.seed, SECOND)
    print(text)
    return 0 if holds else 1


def run_sheet(arguments: argparse.Namespace) -> None:
    with needs_extra("train"):
        from ..reports.contact_sheet import make_contact_sheet
        from ..tiny.judge.examples import examples
        from ..tiny.scenes.world import SECOND

    check_writable([arguments.out])
    page = make_contact_sheet(*examples(arguments.what, arguments.side, arguments.seed, SECOND))
    import torch

    from ..images.png import save_png

    settings = {"what": arguments.what, "side": arguments.side, "seed": arguments.seed}
    save_png(arguments.out, torch.from_numpy(page.copy()) / 255, settings)
    report(arguments.out)


def _print_quick(record: dict) -> None:
    for stage, curve in record["stages"].items():
        loss, minutes = curve["loss"], record["cpu_minutes"][stage]
        print(f"{stage}: cpu_minutes {minutes:.1f}  loss {loss[0]:.4f} -> {loss[-1]:.4f}")
    print("right: " + "  ".join(f"{category} {share:.3f}" for category, share in record["accuracy"].items()))
