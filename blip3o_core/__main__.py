"""`python -m blip3o_core`: the library from the command line."""

import argparse
import shlex
import sys
from pathlib import Path

from .bundled import chosen, name_of
from .decoding import Sampling
from .errors import Blip3oError
from .options import Bar, add_model_options, load_pipeline
from .training.command import add_train_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m blip3o_core", description="Draw pictures with BLIP3o-NEXT checkpoints."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    generate = commands.add_parser(
        "generate",
        help="draw pictures from text",
        description="Draw a picture from a prompt, or one per line of a file. The settings are stored in each PNG.",
        epilog='example: python -m blip3o_core generate --prompt "a red circle above a blue star" --out circle.png',
    )
    what = generate.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="what to draw")
    what.add_argument(
        "--prompts", type=Path, metavar="FILE", help="text file, one prompt per line; empty lines are skipped"
    )
    generate.add_argument(
        "--out", type=Path, required=True, help="PNG to write; with --prompts a folder for 00000.png, 00001.png, ..."
    )
    add_model_options(generate)
    defaults = Sampling()
    generate.add_argument("--seed", type=int, default=0, help="seed; the picture of row k uses seed + k (default 0)")
    generate.add_argument(
        "--noise-seed", type=int, help="seed of the diffusion noise, when only that should change (default: as --seed)"
    )
    generate.add_argument("--steps", type=int, default=30, help="diffusion steps (default 30)")
    generate.add_argument(
        "--guidance", type=float, default=2.0, help="diffusion guidance, 1 turns it off (default 2.0)"
    )
    generate.add_argument(
        "--size", metavar="WxH", help="picture size in pixels (default: what the model was trained at)"
    )
    generate.add_argument(
        "--top-k",
        type=int,
        default=defaults.top_k,
        help="sample among the K likeliest tokens; 0: all, 1: greedy (1200)",
    )
    generate.add_argument(
        "--top-p", type=float, default=defaults.top_p, help="and among those that hold this mass (0.95)"
    )
    generate.add_argument("--temperature", type=float, default=defaults.temperature, help="0 is greedy (default 1.0)")
    generate.add_argument("--negative-prompt", help="what to lead the tokens away from, with --token-guidance above 1")
    generate.add_argument(
        "--token-guidance", type=float, default=1.0, help="guidance on the token logits (default 1: off)"
    )
    generate.add_argument("--batch", type=int, default=1, help="prompts decoded and rendered together (default 1)")
    generate.set_defaults(run=run_generate)

    inspect = commands.add_parser(
        "inspect",
        help="say what a checkpoint is",
        description="Recognise a checkpoint folder and check every tensor's shape.",
    )
    inspect.add_argument(
        "model", type=Path, nargs="?", metavar="DIR", help="checkpoint folder (default: the bundled tiny model)"
    )
    inspect.add_argument(
        "--diffusion-folder", type=Path, help="folder with transformer/ and vae/ configs, if not found"
    )
    inspect.set_defaults(run=run_inspect)
    add_train_command(commands)
    add_evaluate_command(commands)
    return parser


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


def run_evaluate_tiny(arguments: argparse.Namespace) -> None:
    import json

    from .picture_file import check_writable

    try:
        from .tiny import evaluation, evaluation_report
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


def run_inspect(arguments: argparse.Namespace) -> None:
    from .checkpoint import open_checkpoint
    from .inspection import describe

    print(describe(open_checkpoint(chosen(arguments.model), arguments.diffusion_folder)))


def run_generate(arguments: argparse.Namespace) -> None:
    from .picture_file import check_writable, save_png
    from .seeds import row_seeds

    prompts, paths = _prompts_and_paths(arguments)
    check_writable(paths[0].parent)
    size = _parse_size(arguments.size)
    if arguments.batch < 1:
        raise Blip3oError(f"--batch is {arguments.batch}; at least 1 prompt must be drawn at a time.")
    sampling = Sampling(arguments.top_k, arguments.top_p, arguments.temperature, guidance=arguments.token_guidance)
    pipeline = load_pipeline(arguments)
    size = pipeline.check(size, arguments.steps, arguments.guidance)
    noise_seed = arguments.seed if arguments.noise_seed is None else arguments.noise_seed
    for prompt in prompts:
        pipeline.encoder.encode(prompt)
    for first in range(0, len(prompts), arguments.batch):
        rows = prompts[first : first + arguments.batch]
        seeds, noise_seeds = (row_seeds(seed, len(rows), first) for seed in (arguments.seed, noise_seed))
        name = f"{first + 1}/{len(prompts)} " if len(prompts) > 1 else ""
        with Bar(f"{name}tokens") as bar:
            tokens = pipeline.draw(rows, seeds, sampling, negative_prompt=arguments.negative_prompt, callback=bar)
        with Bar(f"{name}diffusion") as bar:
            images = pipeline.render(tokens, noise_seeds, size, arguments.steps, arguments.guidance, bar)
        for k, image in enumerate(images):
            settings = _settings(arguments, pipeline, rows[k], seeds[k], noise_seeds[k], size)
            save_png(paths[first + k], image, settings)
            print(paths[first + k])


def _settings(arguments, pipeline, prompt: str, seed: int, noise_seed: int, size) -> dict:
    """Everything that decides the picture, and the command that draws it alone."""
    options = {
        "prompt": prompt, "seed": seed, "noise_seed": noise_seed, "steps": arguments.steps,
        "guidance": arguments.guidance, "size": f"{size[0]}x{size[1]}",
        "top_k": arguments.top_k, "top_p": arguments.top_p,
        "temperature": arguments.temperature, "token_guidance": arguments.token_guidance,
        "dtype": arguments.dtype, "device": str(pipeline.device),
    }  # fmt: skip
    if arguments.negative_prompt is not None:
        options["negative_prompt"] = arguments.negative_prompt
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    if arguments.diffusion_folder is not None:
        words.append("--diffusion-folder=DIFFUSION_DIR")
    if arguments.model is not None:
        words.append("--model=DIR")
    command = shlex.join(["python", "-m", "blip3o_core", "generate", *words, "--out=OUT.png"])
    return {
        **options,
        "checkpoint": name_of(pipeline.checkpoint.folder),
        "tokens": pipeline.checkpoint.vocabulary_id,
        "command": command,
    }


def _prompts_and_paths(arguments: argparse.Namespace) -> tuple[list[str], list[Path]]:
    if arguments.prompts is None:
        out = arguments.out
        if out.is_dir() or out.suffix.lower() != ".png":
            raise Blip3oError(f"--out is {out}; for one prompt it must be the name of a .png file.")
        return [arguments.prompt], [out]
    try:
        # Not splitlines(): it also cuts at characters that a prompt may hold, like U+2028.
        lines = arguments.prompts.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Blip3oError(f"--prompts {arguments.prompts} cannot be read: {error}. Give a UTF-8 text file.") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise Blip3oError(
            f"--prompts {arguments.prompts} holds no prompt: every line is empty. Write one prompt per line."
        )
    return prompts, [arguments.out / f"{k:05d}.png" for k in range(len(prompts))]


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise Blip3oError(f"--size is {text!r}; write width and height in pixels, like 1024x768.")
    return int(parts[0]), int(parts[1])


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except Blip3oError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; every picture named above is whole", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
