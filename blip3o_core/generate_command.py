"""`python -m blip3o_core generate`: pictures from text, one or a file of prompts."""

import argparse
from pathlib import Path

from .errors import Blip3oError
from .options import (
    Bar,
    add_model_options,
    add_rendering_options,
    add_sampling_options,
    add_seed_options,
    check_picture_name,
    load_pipeline,
    parse_size,
    sampling_of,
    stored_settings,
)


def add_generate_command(commands) -> None:
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
    add_seed_options(generate)
    add_rendering_options(generate, "what the model was trained at")
    add_sampling_options(generate)
    generate.add_argument("--batch", type=int, default=1, help="prompts decoded and rendered together (default 1)")
    generate.set_defaults(run=run_generate)


def run_generate(arguments: argparse.Namespace) -> None:
    from .picture_file import check_writable, save_png
    from .seeds import row_seeds

    prompts, paths = _prompts_and_paths(arguments)
    check_writable(paths[0].parent)
    size = parse_size(arguments.size)
    if arguments.batch < 1:
        raise Blip3oError(f"--batch is {arguments.batch}; at least 1 prompt must be drawn at a time.")
    sampling = sampling_of(arguments)
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
    return stored_settings(arguments, pipeline.checkpoint, "generate", options)


def _prompts_and_paths(arguments: argparse.Namespace) -> tuple[list[str], list[Path]]:
    if arguments.prompts is None:
        check_picture_name(arguments.out, "prompt")
        return [arguments.prompt], [arguments.out]
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
