"""`blip3o generate`: images from text, one or a file of prompts."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Blip3oError
from ..files import check_writable, read_lines
from .arguments import (
    IMAGE,
    MACHINE,
    add_interval_option,
    add_lora_option,
    add_model_options,
    add_output_options,
    add_rendering_options,
    add_sampling_options,
    add_seed_options,
    add_token_guidance_options,
    check_png_out,
    positive,
    processes,
)
from .common import (
    CANCELLED,
    CANCELLED_ONE,
    Bar,
    are_made,
    generation_settings,
    load_pipeline,
    open_checkpoint,
    option_words,
    read_loras,
    report,
    sampling_of,
    say,
    stored_settings,
)
from .device import device_of
from .output import save_image, set_default_out
from .parser import UsageError
from .summary import Summary


def add_command(commands) -> None:
    parser = commands.add_parser(
        "generate",
        help="make images from text",
        description="Make an image from a prompt, or one for each line of a file. Every PNG stores its settings and "
        "the command that makes it again.",
        needs="generate needs the text of an image: --prompt TEXT, or --prompts FILE for many.",
        example='blip3o generate --prompt "a red circle above a blue star"',
    )
    what = parser.group(IMAGE).add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT", help="what the image shows")
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text file with a prompt on each line; images that exist are skipped",
    )
    add_output_options(parser, "with --prompts a folder for 00000.png, 00001.png, ..., which must be given")
    add_seed_options(parser)
    add_sampling_options(parser)
    add_token_guidance_options(parser)
    add_rendering_options(parser, "the size that the model was trained at")
    add_interval_option(parser)
    add_model_options(parser)
    add_lora_option(parser)
    machine = parser.group(MACHINE)
    machine.add_argument(
        "--batch",
        type=positive,
        default=1,
        metavar="N",
        help="prompts that are processed together (default: %(default)s)",
    )
    machine.add_argument(
        "--num-processes",
        type=processes,
        default=1,
        metavar="N",
        help="with --prompts: share the work among N processes on this machine (default: %(default)s); torchrun does "
        "it on several machines",
    )
    parser.set_defaults(run=run, parser=parser, cancelled=CANCELLED)


@dataclass(frozen=True)
class Batch:
    """Prompts that are decoded and rendered together. Item k of each list belongs to prompt k."""

    first: int  # number of the first prompt in its file
    prompts: list[str]
    seeds: list[int]
    noise_seeds: list[int]
    paths: list[Path]
    settings: list[dict]


def run(arguments: argparse.Namespace) -> int | None:
    many = arguments.prompts is not None
    if not many:
        arguments.cancelled = CANCELLED_ONE
        check_png_out(arguments.out)
        if not arguments.prompt.strip():
            raise UsageError(f"--prompt is {arguments.prompt!r}. Describe the image in words.")
        set_default_out(arguments)
    elif arguments.out is None:
        raise UsageError("--prompts needs --out DIR, the folder for the images. A run that is cut off resumes in it.")
    summary = Summary()
    from ..decoding.interface import Compute
    from ..diffusion.sampler import GuidanceSchedule
    from ..images.enlarge import check_enlarged
    from ..pipeline import check_rendering
    from .processes import launch, own_device, rank_and_count

    prompts, paths = _prompts_and_paths(arguments)
    check_writable([paths[0]])
    device, sampling = own_device(device_of(arguments.device)), sampling_of(arguments, arguments.token_guidance)
    checkpoint = open_checkpoint(arguments)
    read_loras(arguments, checkpoint)
    guidance = GuidanceSchedule(arguments.guidance, arguments.guidance_interval)
    together = min(arguments.batch, len(prompts))
    size = check_rendering(checkpoint, arguments.size, arguments.steps, guidance, together, Compute(device))
    check_enlarged(size, arguments.enlarge)
    negative = (arguments.negative_prompt or "") if sampling.guidance > 1 else None
    for prompt in [*prompts, *([] if negative is None else [negative])]:
        checkpoint.prompt_encoder.encode(prompt)
    if many and arguments.num_processes > 1 and rank_and_count()[1] == 1:
        return launch(arguments.num_processes, arguments.words)
    plan = list(_batches(arguments, checkpoint, device, size, prompts, paths))
    pipeline = None
    for batch in _mine(plan) if many else plan:
        if pipeline is None:
            pipeline = load_pipeline(arguments, checkpoint, device, arguments.batch)
            summary.loaded()
        label = f"{batch.first + 1}/{len(prompts)} " if len(prompts) > 1 else ""
        with summary.part("tokens"), Bar(f"{label}tokens") as bar:
            tokens = pipeline.generate_tokens(
                batch.prompts, batch.seeds, sampling, negative_prompt=negative, callback=bar
            )
        summary.tokens += tokens.codes.numel()
        with summary.part("diffusion"), Bar(f"{label}diffusion") as bar:
            images = pipeline.render(tokens, batch.noise_seeds, size, arguments.steps, guidance, bar)
        for path, image, settings in zip(batch.paths, images, batch.settings, strict=True):
            report(save_image(arguments, path, image, settings))
            summary.images += 1
    if summary.images:
        say(str(summary))
    return None


def _batches(arguments, checkpoint, device, size, prompts: list[str], paths: list[Path]) -> Iterator[Batch]:
    """All prompts in order. Whole batches are shared and skipped: a prompt's neighbours may change its last bit."""
    from ..seeds import row_seeds

    noise_seed = arguments.seed if arguments.noise_seed is None else arguments.noise_seed
    for first in range(0, len(prompts), arguments.batch):
        rows = slice(first, first + arguments.batch)
        count = len(prompts[rows])
        seeds, noise_seeds = row_seeds(arguments.seed, count, first), row_seeds(noise_seed, count, first)
        settings = []
        for prompt, seed, noise in zip(prompts[rows], seeds, noise_seeds, strict=True):
            own = {"prompt": prompt, "seed": seed, "noise_seed": noise, "size": f"{size[0]}x{size[1]}"}
            own |= generation_settings(arguments, device)
            together = {"batch": count} if count > 1 else {}
            settings.append(stored_settings(arguments, checkpoint, own, together, ["generate", *option_words(own)]))
        yield Batch(first, prompts[rows], seeds, noise_seeds, paths[rows], settings)


def _mine(plan: list[Batch]) -> Iterator[Batch]:
    """The batches that this process makes: its share of all, without those whose images exist."""
    from .processes import is_mine

    for batch in plan:
        if is_mine(f"{batch.first} {batch.prompts}") and not are_made(batch.paths, batch.settings):
            yield batch


def _prompts_and_paths(arguments: argparse.Namespace) -> tuple[list[str], list[Path]]:
    if arguments.prompts is None:
        return [arguments.prompt], [arguments.out]
    lines = read_lines(arguments.prompts, "Give --prompts a UTF-8 text file.")
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise Blip3oError(f"--prompts {arguments.prompts} is empty. Write a prompt on each line.")
    return prompts, [arguments.out / f"{k:05d}.png" for k in range(len(prompts))]
