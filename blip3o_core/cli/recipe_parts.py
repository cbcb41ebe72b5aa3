"""`blip3o recipe parts`: how often the model of the tiny world is right, and which of its parts makes the mistakes."""

import argparse
from pathlib import Path

from ..files import check_writable, write_json
from .arguments import (
    add_diffusion_options,
    add_model_options,
    add_sampling_options,
    png_file,
    positive,
    whole,
)
from .common import Bar, load_pipeline, needs_extra, open_checkpoint, report, sampling_of
from .device import device_of

TEST = "Test"  # its group of options
SPLITS = ("train", "held_back")
SOURCES = ("codes", "true-codes", "autoencoder")
_SETTINGS = ("count", "seeds", "split", "steps", "guidance", "any_phrasing", "low_contrast", "batch")


def add_command(recipes) -> None:
    parser = recipes.add_parser(
        "parts",
        help="find the part of the model that makes the mistakes",
        description="Make images from unseen prompts of the tiny world, judge each exactly, and show which part of the "
        "model makes the mistakes.",
        example="blip3o recipe parts --from all --json tiny.json --grid tiny.png",
    )
    group = parser.group(TEST)
    group.add_argument(
        "--count",
        type=whole(8, 2**20),
        default=1000,
        help="prompts, the same number of each category (default: %(default)s)",
    )
    group.add_argument(
        "--seeds",
        type=whole(1, 1000),
        default=3,
        help="runs over all prompts, with different seeds (default: %(default)s)",
    )
    group.add_argument(
        "--split",
        choices=SPLITS,
        default="held_back",
        help="unseen prompts (held_back), or some of those the model was trained on (train; default: %(default)s)",
    )
    group.add_argument("--any-phrasing", action="store_true", help="use all phrasings, not only the plain one")
    group.add_argument("--low-contrast", action="store_true", help="also ask for colour pairs like purple on blue")
    group.add_argument(
        "--from",
        dest="source",
        choices=(*SOURCES, "all"),
        default="all",
        help="what to make images from: image tokens that the model writes (codes), image tokens of the true image "
        "(true-codes), the true image through the autoencoder alone (autoencoder), or all (default: %(default)s)",
    )
    group.add_argument("--batch", type=positive, default=50, help="prompts processed together (default: %(default)s)")
    group.add_argument("--json", type=Path, metavar="FILE", help="write the settings and all numbers to this file")
    group.add_argument(
        "--grid", type=png_file, metavar="FILE.png", help="write a grid of images with their verdicts to this file"
    )
    group.add_argument("--speed", action="store_true", help="also measure the time of an image made alone")
    add_sampling_options(parser)
    add_diffusion_options(parser, 20)
    add_model_options(parser, dtype="fp32")
    parser.set_defaults(run=run, parser=parser, cancelled="Cancelled. Only the files listed above are complete.")


def run(arguments: argparse.Namespace) -> None:
    with needs_extra("train"):
        from ..tiny import evaluation, evaluation_report
    checkpoint = open_checkpoint(arguments)
    settings = evaluation.Settings(
        sampling=sampling_of(arguments),
        edition=evaluation.edition_of(checkpoint),
        **{name: getattr(arguments, name) for name in _SETTINGS},
    )
    for option, path in (("--json", arguments.json), ("--grid", arguments.grid)):
        if path is not None:
            check_writable([path], option)
    pipeline = load_pipeline(arguments, checkpoint, device_of(arguments.device), arguments.batch)
    results = []
    for source in SOURCES if arguments.source == "all" else (arguments.source,):
        with Bar(source) as bar:
            results.append(evaluation.evaluate(pipeline, settings, source, bar))
    print(evaluation_report.table(results))
    speed = evaluation.measure_speed(pipeline, settings) if arguments.speed else None
    if speed:
        print(evaluation_report.speed_line(speed, evaluation_report.device_of(pipeline)))
    if arguments.json is not None:
        write_json(arguments.json, evaluation_report.to_json(results, pipeline, speed))
        report(arguments.json)
    if arguments.grid is not None:
        evaluation_report.save_grid(arguments.grid, results)
        report(arguments.grid)
