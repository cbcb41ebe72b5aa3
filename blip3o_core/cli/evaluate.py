"""`python -m blip3o_core evaluate tiny`, and `tiny-edits`."""

import argparse
from pathlib import Path

from ..decoding.sampling import Sampling
from ..errors import Blip3oError
from .common import Bar, add_model_options, load_pipeline


def add_evaluate_command(commands) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="measure how well a model draws what it is told", description="Measure a model's pictures."
    )
    worlds = evaluate.add_subparsers(dest="world", required=True)
    tiny = worlds.add_parser(
        "tiny",
        help="the tiny world, judged exactly",
        description="Draw held-back prompts of the tiny world, judge every picture, and say which part errs.",
        epilog="example: python -m blip3o_core evaluate tiny --from all --json tiny.json --grid tiny.png",
    )
    add_model_options(tiny, dtype="fp32")
    tiny.add_argument("--count", type=int, default=1000, help="prompts, spread over the categories (default 1000)")
    tiny.add_argument("--seeds", type=int, default=3, help="sampling seeds: runs over all prompts (default 3)")
    tiny.add_argument(
        "--split", default="held_back", help="held_back, or train to see what was learnt by heart (default held_back)"
    )
    tiny.add_argument("--steps", type=int, help="diffusion steps (default: what suits the bundled model)")
    tiny.add_argument("--guidance", type=float, help="diffusion guidance (default: what suits the bundled model)")
    defaults = Sampling()
    tiny.add_argument("--top-k", type=int, default=defaults.top_k, help="sample among the K likeliest tokens (1200)")
    tiny.add_argument("--top-p", type=float, default=defaults.top_p, help="and among those that hold this mass (0.95)")
    tiny.add_argument("--temperature", type=float, default=defaults.temperature, help="0 is greedy (default 1.0)")
    tiny.add_argument("--any-phrasing", action="store_true", help="all ways to say it, not only the plain grammar's")
    tiny.add_argument("--low-contrast", action="store_true", help="also ask for pairs like purple on blue")
    tiny.add_argument(
        "--from", dest="ways", choices=("codes", "true-codes", "autoencoder", "all"), default="codes",
        help="draw from sampled codes, from the true picture's codes, by the autoencoder alone, or all (default codes)",
    )  # fmt: skip
    tiny.add_argument("--batch", type=int, default=50, help="prompts drawn together (default 50)")
    tiny.add_argument("--json", type=Path, metavar="FILE", help="write settings and all numbers to this file")
    tiny.add_argument("--grid", type=Path, metavar="FILE.png", help="write a grid of pictures with their verdicts")
    tiny.add_argument("--speed", action="store_true", help="also time pictures drawn one at a time")
    tiny.set_defaults(run=run_evaluate_tiny)
    edits = worlds.add_parser(
        "tiny-edits",
        help="edits in the tiny world, by every way of the reference",
        description="Edit held-back pictures of the tiny world by every way the checkpoint has, and judge the results.",
        epilog="example: python -m blip3o_core evaluate tiny-edits --json edits.json",
    )
    add_model_options(edits, dtype="fp32")
    edits.add_argument("--count", type=int, default=300, help="edits, spread over the kinds (default 300)")
    edits.add_argument("--seed", type=int, default=0, help="seed; edit k uses seed + k (default 0)")
    edits.add_argument("--steps", type=int, help="diffusion steps (default: what suits the bundled model)")
    edits.add_argument("--guidance", type=float, help="diffusion guidance (default: what suits the bundled model)")
    edits.add_argument("--batch", type=int, default=50, help="edits drawn together (default 50)")
    edits.add_argument("--json", type=Path, metavar="FILE", help="write settings and all numbers to this file")
    edits.set_defaults(run=run_evaluate_edits)


def run_evaluate_edits(arguments: argparse.Namespace) -> None:
    import json

    from ..images.png import check_writable

    try:
        from ..tiny import edit_evaluation as edits
    except ImportError as error:
        raise Blip3oError(f"Judging needs more packages: {error}. Install this project's `train` extra.") from error

    names = ("count", "seed", "steps", "guidance", "batch")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    settings = edits.Settings(**given)
    if arguments.json is not None:
        check_writable(arguments.json.parent, "--json")
    pipeline = load_pipeline(arguments)
    pipeline.check(None, settings.steps, settings.guidance)
    results = []
    for way in edits.ways_of(pipeline.reference_mode):
        with Bar(way) as bar:
            results.append(edits.evaluate(pipeline, settings, way, bar))
    print(edits.table(results))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(edits.to_json(results), indent=1) + "\n", encoding="utf-8")
        print(arguments.json)


def run_evaluate_tiny(arguments: argparse.Namespace) -> None:
    import json

    from ..images.png import check_writable

    try:
        from ..tiny import evaluation, evaluation_report
    except ImportError as error:
        raise Blip3oError(f"Judging needs more packages: {error}. Install this project's `train` extra.") from error

    sampling = Sampling(arguments.top_k, arguments.top_p, arguments.temperature)
    chosen_numbers = {name: getattr(arguments, name) for name in ("steps", "guidance")}
    settings = evaluation.Settings(
        arguments.count, arguments.seeds, arguments.split, sampling=sampling, any_phrasing=arguments.any_phrasing,
        low_contrast=arguments.low_contrast, batch=arguments.batch,
        **{name: value for name, value in chosen_numbers.items() if value is not None},
    )  # fmt: skip
    for option, path in (("--json", arguments.json), ("--grid", arguments.grid)):
        if path is not None:
            check_writable(path.parent, option)
    if arguments.grid is not None and arguments.grid.suffix.lower() != ".png":
        raise Blip3oError(f"--grid is {arguments.grid}; it must be the name of a .png file.")
    pipeline = load_pipeline(arguments)
    pipeline.check(None, settings.steps, settings.guidance)
    results = []
    for way in evaluation.WAYS if arguments.ways == "all" else (arguments.ways,):
        with Bar(way) as bar:
            results.append(evaluation.evaluate(pipeline, settings, way, bar))
    print(evaluation_report.table(results))
    speed = evaluation.measure_speed(pipeline, settings) if arguments.speed else None
    if speed:
        print(evaluation_report.speed_line(speed, evaluation_report.device_of(pipeline)))
    if arguments.json is not None:
        report = evaluation_report.to_json(results, pipeline, speed)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(arguments.json)
    if arguments.grid is not None:
        evaluation_report.save_grid(arguments.grid, results)
        print(arguments.grid)
