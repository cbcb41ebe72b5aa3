"""`blip3o generate`: images from text, one or a file of prompts."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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
from .best_of import FOUND, add_best_of_options, check_best_of, facts_of, open_rewards, save_best
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
    add_best_of_options(parser)
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
        help="prompts that are processed together, or with --best-of images of a prompt that are rendered together "
        "(default: %(default)s)",
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
    """Images that are decoded together: of several prompts, or of one from which the best is kept.

    Item k of each list belongs to image k. `paths`: of what is kept.
    """

    first: int  # number of the first prompt in its file
    prompts: list[str]
    seeds: list[int]
    noise_seeds: list[int]
    paths: list[Path]
    settings: list[dict]


def run(arguments: argparse.Namespace) -> int | None:
    many = arguments.prompts is not None
    check_best_of(arguments)
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
    from ..rewards.best_of import render_each
    from .processes import launch, own_device, rank_and_count

    prompts, paths = _prompts_and_paths(arguments)
    check_writable([paths[0]])
    device, sampling = own_device(device_of(arguments.device)), sampling_of(arguments, arguments.token_guidance)
    checkpoint = open_checkpoint(arguments)
    read_loras(arguments, checkpoint)
    guidance = GuidanceSchedule(arguments.guidance, arguments.guidance_interval)
    mix = open_rewards(arguments)
    together = min(arguments.batch, len(prompts) if mix is None else arguments.best_of)
    size = check_rendering(checkpoint, arguments.size, arguments.steps, guidance, together, Compute(device))
    check_enlarged(size, arguments.enlarge)
    negative = (arguments.negative_prompt or "") if sampling.guidance > 1 else None
    for prompt in [*prompts, *([] if negative is None else [negative])]:
        checkpoint.prompt_encoder.encode(prompt)
    if many and arguments.num_processes > 1 and rank_and_count()[1] == 1:
        return launch(arguments.num_processes, arguments.words)
    make_plan = _batches if mix is None else partial(_candidates, mix)
    plan = list(make_plan(arguments, checkpoint, device, size, prompts, paths))
    pipeline = None
    for batch in _mine(plan) if many else plan:
        if pipeline is None:
            pipeline = load_pipeline(arguments, checkpoint, device, max(arguments.batch, arguments.best_of))
            summary.loaded()
        label = f"{batch.first + 1}/{len(prompts)} " if len(prompts) > 1 else ""
        with summary.part("tokens"), Bar(f"{label}tokens") as bar:
            tokens = pipeline.generate_tokens(
                batch.prompts, batch.seeds, sampling, negative_prompt=negative, callback=bar
            )
        summary.tokens += tokens.codes.numel()
        with summary.part("diffusion"), Bar(f"{label}diffusion") as bar:
            images = render_each(
                pipeline, tokens, batch.noise_seeds, together,
                size=size, steps=arguments.steps, guidance=guidance, callback=bar,
            )  # fmt: skip
        summary.images += len(images)
        _keep(arguments, mix, batch, images, summary)
    if summary.images:
        say(str(summary))
    return None


def _keep(arguments, mix, batch: Batch, images: list, summary: Summary) -> None:
    """Write all images of a batch, or those that the rewards choose."""
    from ..rewards.interface import Candidates

    if mix is None:
        for path, image, settings in zip(batch.paths, images, batch.settings, strict=True):
            report(save_image(arguments, path, image, settings))
        return
    save_best(arguments, mix, batch.paths[0], Candidates(images, batch.prompts), batch.settings, summary)


def _batches(arguments, checkpoint, device, size, prompts: list[str], paths: list[Path]) -> Iterator[Batch]:
    """All prompts in order. Whole batches are shared and skipped: a prompt's neighbours may change its last bit."""
    from ..seeds import row_seeds

    noise_seed = arguments.seed if arguments.noise_seed is None else arguments.noise_seed
    for first in range(0, len(prompts), arguments.batch):
        part = slice(first, first + arguments.batch)
        texts, files = prompts[part], paths[part]
        count = len(texts)
        seeds, noise_seeds = row_seeds(arguments.seed, count, first), row_seeds(noise_seed, count, first)
        together = {"batch": count} if count > 1 else {}
        settings = [
            _settings(arguments, checkpoint, device, size, row, together)
            for row in zip(texts, seeds, noise_seeds, strict=True)
        ]
        yield Batch(first, texts, seeds, noise_seeds, files, settings)


def _candidates(mix, arguments, checkpoint, device, size, prompts: list[str], paths: list[Path]) -> Iterator[Batch]:
    """All prompts in order, each as often as --best-of says, with as many seeds of its own."""
    from ..seeds import row_seeds

    count = arguments.best_of
    noise_seed = arguments.seed if arguments.noise_seed is None else arguments.noise_seed
    for number, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
        seeds, noise = (row_seeds(seed, count, number * count) for seed in (arguments.seed, noise_seed))
        facts = facts_of(arguments, mix, seeds, noise)
        settings = [
            _settings(arguments, checkpoint, device, size, (prompt, *row), facts)
            for row in zip(seeds, noise, strict=True)
        ]
        yield Batch(number, [prompt] * count, seeds, noise, [path], settings)


def _settings(arguments, checkpoint, device, size, row: tuple[str, int, int], facts: dict) -> dict:
    """What is stored with an image. `row`: its prompt, seed and noise seed."""
    prompt, seed, noise_seed = row
    own = {"prompt": prompt, "seed": seed, "noise_seed": noise_seed, "size": f"{size[0]}x{size[1]}"}
    own |= generation_settings(arguments, device)
    return stored_settings(arguments, checkpoint, own, facts, ["generate", *option_words(own)])


def _mine(plan: list[Batch]) -> Iterator[Batch]:
    """The batches that this process makes: its share of all, without those whose images exist."""
    from .processes import is_mine

    for batch in plan:
        settings = batch.settings[: len(batch.paths)]
        ignored = FOUND if len(batch.paths) < len(batch.settings) else ()
        if is_mine(f"{batch.first} {batch.prompts}") and not are_made(batch.paths, settings, ignored):
            yield batch


def _prompts_and_paths(arguments: argparse.Namespace) -> tuple[list[str], list[Path]]:
    if arguments.prompts is None:
        return [arguments.prompt], [arguments.out]
    lines = read_lines(arguments.prompts, "Give --prompts a UTF-8 text file.")
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise Blip3oError(f"--prompts {arguments.prompts} is empty. Write a prompt on each line.")
    return prompts, [arguments.out / f"{k:05d}.png" for k in range(len(prompts))]
