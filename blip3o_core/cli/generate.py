"""`python -m blip3o_core generate`: pictures from text, one or a file of prompts."""

import argparse
from pathlib import Path

from ..errors import Blip3oError
from .common import (
    Bar,
    add_interval_option,
    add_model_options,
    add_rendering_options,
    add_sampling_options,
    add_seed_options,
    check_picture_name,
    device_of,
    dtype_of,
    interval_of,
    interval_settings,
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
    add_interval_option(generate)
    add_sampling_options(generate)
    generate.add_argument("--batch", type=int, default=1, help="prompts decoded and rendered together (default 1)")
    generate.add_argument(
        "--num-processes", type=int, default=1, metavar="N",
        help="with --prompts: share the batches among N processes on this machine; torchrun does it on several. "
        "Pictures already there are skipped (default 1)",
    )  # fmt: skip
    generate.set_defaults(run=run_generate)


def run_generate(arguments: argparse.Namespace) -> int | None:
    from ..checkpoint.bundled import resolve_checkpoint
    from ..checkpoint.checkpoint import open_checkpoint
    from ..images.png import check_writable, is_made_with, save_png
    from ..pipeline import Pipeline, check_rendering
    from ..seeds import row_seeds
    from .processes import is_mine, launch, own_device, rank_and_count

    prompts, paths = _prompts_and_paths(arguments)
    check_writable(paths[0].parent)
    size, sampling, interval = parse_size(arguments.size), sampling_of(arguments), interval_of(arguments)
    for option, count in (("--batch", arguments.batch), ("--num-processes", arguments.num_processes)):
        if count < 1:
            raise Blip3oError(f"{option} is {count}; it must be at least 1.")
    device = own_device(device_of(arguments.device))
    checkpoint = open_checkpoint(resolve_checkpoint(arguments.checkpoint), arguments.diffusion_folder)
    size = check_rendering(checkpoint, size, arguments.steps, arguments.guidance, interval)
    for prompt in prompts:
        checkpoint.prompt_encoder.encode(prompt)
    if arguments.num_processes > 1 and arguments.prompts is not None and rank_and_count()[1] == 1:
        return launch(arguments.num_processes, arguments.words)
    noise_seed = arguments.seed if arguments.noise_seed is None else arguments.noise_seed
    pipeline = None
    # Whole batches are shared and skipped: what stands beside a prompt may change its last bit.
    for first in range(0, len(prompts), arguments.batch):
        rows, names = (all_[first : first + arguments.batch] for all_ in (prompts, paths))
        seeds, noise_seeds = (row_seeds(seed, len(rows), first) for seed in (arguments.seed, noise_seed))
        settings = [
            _settings(arguments, checkpoint, device, *each, size) for each in zip(rows, seeds, noise_seeds, strict=True)
        ]
        if arguments.prompts is not None:
            if not is_mine(f"{first} {rows}"):
                continue
            if all(map(is_made_with, names, settings)):
                print(f"{names[0]}: already there" + (f", to {names[-1]}" if len(names) > 1 else ""))
                continue
        pipeline = pipeline or Pipeline(checkpoint, device, dtype_of(arguments.dtype))
        label = f"{first + 1}/{len(prompts)} " if len(prompts) > 1 else ""
        with Bar(f"{label}tokens") as bar:
            tokens = pipeline.generate_tokens(
                rows, seeds, sampling, negative_prompt=arguments.negative_prompt, callback=bar
            )
        with Bar(f"{label}diffusion") as bar:
            images = pipeline.render(
                tokens, noise_seeds, size, arguments.steps, arguments.guidance, bar, interval=interval
            )
        for path, image, known in zip(names, images, settings, strict=True):
            save_png(path, image, known)
            print(path)
    return None


def _settings(arguments, checkpoint, device, prompt: str, seed: int, noise_seed: int, size) -> dict:
    """Everything that decides the picture, and the command that draws it alone."""
    options = {
        "prompt": prompt, "seed": seed, "noise_seed": noise_seed, "steps": arguments.steps,
        "guidance": arguments.guidance, "size": f"{size[0]}x{size[1]}",
        "top_k": arguments.top_k, "top_p": arguments.top_p,
        "temperature": arguments.temperature, "token_guidance": arguments.token_guidance,
        "dtype": arguments.dtype, "device": device.type, **interval_settings(arguments),
    }  # fmt: skip
    if arguments.negative_prompt is not None:
        options["negative_prompt"] = arguments.negative_prompt
    return stored_settings(arguments, checkpoint, "generate", options)


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
