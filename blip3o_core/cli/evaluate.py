"""`blip3o evaluate tiny` and `blip3o evaluate tiny-edits`: how often a model does what it is told."""

import argparse
from pathlib import Path

from ..files import check_writable, write_json
from .arguments import (
    DIFFUSION,
    add_model_options,
    add_sampling_options,
    not_negative,
    png_file,
    positive,
    seed,
    steps,
    whole,
)
from .common import Bar, load_pipeline, needs_extra, open_checkpoint, report, sampling_of
from .device import device_of
from .parser import Parser

TEST = "Test"  # its group of options
FILES = "Cancelled. Only the files listed above are complete."
SPLITS = ("train", "held_back")
SOURCES = ("codes", "true-codes", "autoencoder")


def add_command(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure how often a model does what it is told",
        description="Make images, judge them, and print the shares that are right.",
        needs="evaluate needs the name of a test: tiny or tiny-edits.",
        example="blip3o evaluate tiny --count 80",
    )
    parser.set_defaults(parser=parser)
    worlds = parser.add_subparsers(dest="world", required=True, metavar="WHAT")
    tiny = worlds.add_parser(
        "tiny",
        help="images from text in the tiny world",
        description="Make images from unseen prompts of the tiny world, judge each exactly, and show which part of the "
        "model makes the mistakes.",
        example="blip3o evaluate tiny --from all --json tiny.json --grid tiny.png",
    )
    group = tiny.group(TEST)
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
        default="codes",
        help="what to make images from: image tokens that the model writes (codes), image tokens of the true image "
        "(true-codes), the true image through the autoencoder alone (autoencoder), or all (default: %(default)s)",
    )
    group.add_argument("--batch", type=positive, default=50, help="prompts processed together (default: %(default)s)")
    _add_json_option(tiny)
    group.add_argument(
        "--grid", type=png_file, metavar="FILE.png", help="write a grid of images with their verdicts to this file"
    )
    group.add_argument("--speed", action="store_true", help="also measure the time of an image made alone")
    add_sampling_options(tiny)
    _add_diffusion_options(tiny)
    add_model_options(tiny, dtype="fp32")
    tiny.set_defaults(run=run_tiny, parser=tiny, cancelled=FILES)

    edits = worlds.add_parser(
        "tiny-edits",
        help="edits in the tiny world, in every reference mode",
        description="Edit unseen images of the tiny world in every reference mode that the checkpoint supports, and "
        "judge the results.",
        example="blip3o evaluate tiny-edits --json edits.json",
    )
    group = edits.group(TEST)
    group.add_argument(
        "--count",
        type=whole(6, 2**20),
        default=300,
        help="edits, the same number of each kind (default: %(default)s)",
    )
    group.add_argument("--seed", type=seed, default=0, help="seed; edit k uses seed + k (default: %(default)s)")
    group.add_argument("--batch", type=positive, default=50, help="edits processed together (default: %(default)s)")
    _add_json_option(edits)
    _add_diffusion_options(edits)
    add_model_options(edits, dtype="fp32")
    edits.set_defaults(run=run_edits, parser=edits, cancelled=FILES)


def _add_diffusion_options(parser: Parser) -> None:
    group = parser.group(DIFFUSION)
    group.add_argument("--steps", type=steps, default=20, metavar="N", help="diffusion steps (default: %(default)s)")
    group.add_argument(
        "--guidance",
        type=not_negative,
        default=2.0,
        metavar="X",
        help="diffusion guidance; 1 turns it off (default: %(default)s)",
    )


def _add_json_option(parser: Parser) -> None:
    parser.group(TEST).add_argument(
        "--json", type=Path, metavar="FILE", help="write the settings and all numbers to this file"
    )


def run_tiny(arguments: argparse.Namespace) -> None:
    with needs_extra("train"):
        from ..tiny import evaluation, evaluation_report
    settings = evaluation.Settings(
        sampling=sampling_of(arguments),
        **_given(arguments, "count", "seeds", "split", "steps", "guidance", "any_phrasing", "low_contrast", "batch"),
    )
    for option, path in (("--json", arguments.json), ("--grid", arguments.grid)):
        if path is not None:
            check_writable([path], option)
    pipeline = _load(arguments)
    results = []
    for source in SOURCES if arguments.source == "all" else (arguments.source,):
        with Bar(source) as bar:
            results.append(evaluation.evaluate(pipeline, settings, source, bar))
    print(evaluation_report.table(results))
    speed = evaluation.measure_speed(pipeline, settings) if arguments.speed else None
    if speed:
        print(evaluation_report.speed_line(speed, evaluation_report.device_of(pipeline)))
    if arguments.json is not None:
        _save(arguments.json, evaluation_report.to_json(results, pipeline, speed))
    if arguments.grid is not None:
        evaluation_report.save_grid(arguments.grid, results)
        report(arguments.grid)


def run_edits(arguments: argparse.Namespace) -> None:
    with needs_extra("train"):
        from ..tiny import edit_evaluation
    settings = edit_evaluation.Settings(**_given(arguments, "count", "seed", "steps", "guidance", "batch"))
    if arguments.json is not None:
        check_writable([arguments.json], "--json")
    pipeline = _load(arguments)
    results = []
    for mode in edit_evaluation.supported_modes(pipeline.reference_mode):
        with Bar(mode) as bar:
            results.append(edit_evaluation.evaluate(pipeline, settings, mode, bar))
    print(edit_evaluation.table(results))
    if arguments.json is not None:
        _save(arguments.json, edit_evaluation.to_json(results))


def _given(arguments: argparse.Namespace, *names: str) -> dict:
    return {name: getattr(arguments, name) for name in names}


def _load(arguments: argparse.Namespace):
    device = device_of(arguments.device)
    checkpoint = open_checkpoint(arguments)
    return load_pipeline(arguments, checkpoint, device, arguments.batch)


def _save(path: Path, content: dict) -> None:
    write_json(path, content)
    report(path)
