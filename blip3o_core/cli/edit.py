"""`blip3o edit`: images changed as an instruction says, one or a list of them."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Blip3oError
from ..files import check_writable
from .arguments import (
    FITS,
    IMAGE,
    REFERENCE_MODES,
    REFERENCES,
    add_interval_option,
    add_lora_option,
    add_model_options,
    add_output_options,
    add_rendering_options,
    add_sampling_options,
    add_seed_options,
    add_token_guidance_options,
    check_png_out,
    strength,
    whole,
)
from .best_of import FOUND, add_best_of_options, check_best_of, facts_of, names_beside, open_rewards, save_best
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

if TYPE_CHECKING:
    from ..decoding.sampling import Sampling
    from ..diffusion.reference_mode import ReferenceMode, Strengths
    from ..diffusion.sampler import GuidanceSchedule
    from ..editing.jobs import PreparedEdit
    from ..pipeline import Pipeline
    from ..rewards.interface import Candidates
    from ..rewards.mix import RewardMix

_STRENGTHS = {
    "text": "strength of the instruction, from 0 (ignore it) to 10",
    "cross": "strength of the references in cross-attention, from 0 to 10",
    "noise": "strength of the reference next to the noise, from 0 to 10",
}


def add_command(commands) -> None:
    parser = commands.add_parser(
        "edit",
        help="change images as an instruction says",
        description="Make an image from one to eight images and an instruction, or one for each line of a list. "
        "docs/editing.md says more.",
        example='blip3o edit --image circle.png --instruction "make the circle blue"',
    )
    image, references = parser.group(IMAGE), parser.group(REFERENCES)
    image.add_argument(
        "--image", type=Path, action="append", metavar="FILE", help="image to start from; repeat it for further images"
    )
    image.add_argument("--instruction", metavar="TEXT", help='what to change; "image 2" means the second --image')
    image.add_argument(
        "--list",
        type=Path,
        metavar="FILE.jsonl",
        help="instead of --image and --instruction: a file with a JSON object on each line that has image or images, "
        "instruction, and if wanted mask, out and seed. Images that exist already are skipped",
    )
    add_output_options(parser, "with --list a folder for 00000.png, 00001.png, ..., which must be given")
    image.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="image as large as the first --image, white where it may change; the rest stays as it is",
    )
    image.add_argument(
        "--feather",
        type=whole(0, 1024),
        default=0,
        metavar="N",
        help="width of the soft edge inside the mask, in pixels (default: %(default)s)",
    )
    references.add_argument(
        "--fit",
        choices=FITS,
        default="stretch",
        help="how images are made square for the image tokens (default: %(default)s)",
    )
    references.add_argument(
        "--reference-mode",
        choices=REFERENCE_MODES,
        default="auto",
        help="how the diffusion model sees the images: only through the image tokens (tokens), in cross-attention "
        "(cross), next to the noise (noise), or both; auto: all that the checkpoint supports (default: %(default)s)",
    )
    for name, what in _STRENGTHS.items():
        references.add_argument(
            f"--{name}-strength", type=strength, default=1.0, metavar="X", help=f"{what} (default: %(default)s)"
        )
    add_seed_options(parser)
    add_best_of_options(parser)
    add_sampling_options(parser)
    add_token_guidance_options(parser)
    add_rendering_options(parser, "the first image's shape, with as many pixels as the model was trained at")
    add_interval_option(parser)
    add_model_options(parser)
    add_lora_option(parser)
    parser.set_defaults(run=run, parser=parser, cancelled=CANCELLED)


def run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    summary = Summary()
    from ..decoding.interface import Compute
    from ..diffusion.reference_mode import Strengths
    from ..diffusion.sampler import GuidanceSchedule
    from ..editing.jobs import EditSettings, prepare_all
    from ..images.enlarge import check_enlarged
    from ..pipeline import check_rendering

    if arguments.list is None:
        arguments.cancelled = CANCELLED_ONE
    jobs = _jobs(arguments)
    sampling = sampling_of(arguments, arguments.token_guidance)
    strengths = Strengths(arguments.text_strength, arguments.cross_strength, arguments.noise_strength)
    device, checkpoint = device_of(arguments.device), open_checkpoint(arguments)
    read_loras(arguments, checkpoint)
    mix = open_rewards(arguments)
    guidance = GuidanceSchedule(arguments.guidance, arguments.guidance_interval)
    check_rendering(checkpoint, arguments.size, arguments.steps, guidance, compute=Compute(device))
    name, mode = checkpoint.reference_mode.select(arguments.reference_mode, strengths, str(checkpoint.folder))
    negative = (arguments.negative_prompt or "") if sampling.guidance > 1 else None
    shared = EditSettings(arguments.fit, arguments.size, arguments.feather, negative)
    prepared = prepare_all(jobs, arguments.list, checkpoint, shared)
    check_writable([job.out for job in jobs])
    for edit in prepared:
        _warn_of_unknown_images(edit)
        check_enlarged(edit.size, arguments.enlarge)
    planned = [(edit, _settings(arguments, checkpoint, edit, k, device, name, mix)) for k, edit in enumerate(prepared)]
    if arguments.list is not None:
        ignored = () if mix is None else FOUND
        planned = [(edit, rows) for edit, rows in planned if not are_made([edit.job.out], rows[:1], ignored)]
    if not planned:
        return
    pipeline = load_pipeline(arguments, checkpoint, device, arguments.best_of)
    editor = Editor(pipeline, sampling, guidance, strengths, mode, summary)
    summary.loaded()
    for k, (edit, rows) in enumerate(planned, 1):
        made = run_edit(editor, edit, rows, f"{k}/{len(planned)} " if len(planned) > 1 else "")
        if mix is None:
            report(save_image(arguments, edit.job.out, made.images[0], rows[0]))
        else:
            save_best(arguments, mix, edit.job.out, made, rows, summary)
    say(str(summary))


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that contradict each other or are missing."""
    check_best_of(arguments)
    if arguments.list is not None:
        for option in ("image", "instruction", "mask"):
            if getattr(arguments, option) is not None:
                raise UsageError(f'--{option} cannot be used with --list. Write "{option}" into the lines of the list.')
        if arguments.out is None:
            raise UsageError("--list needs --out DIR, the folder for the images. A run that is cut off resumes in it.")
        return
    if not arguments.image:
        example = arguments.parser.example
        raise UsageError(f"edit needs an image: --image FILE, once for each, or --list FILE. Example: {example}")
    if not (arguments.instruction or "").strip():
        raise UsageError("There is no instruction. Say what should change with --instruction TEXT.")
    if arguments.feather and arguments.mask is None:
        raise UsageError(f"--feather is {arguments.feather}, but there is no mask. Give --mask or leave it out.")
    if arguments.mask is not None and arguments.size is not None:
        raise UsageError("--size cannot be used with --mask: the result is as large as the first image. Leave one out.")
    check_png_out(arguments.out)
    set_default_out(arguments)


def _jobs(arguments: argparse.Namespace) -> list:
    from ..editing.jobs import EditJob, read_list

    if arguments.list is None:
        beside = names_beside(arguments, arguments.out)
        return [EditJob(arguments.image, arguments.instruction, arguments.out, arguments.mask, beside=beside)]
    jobs = read_list(arguments.list, arguments.out, partial(names_beside, arguments))
    if arguments.feather and not any(job.mask for job in jobs):
        raise Blip3oError(
            f"--feather is {arguments.feather}, but no line of {arguments.list} has a mask. Leave --feather out."
        )
    return jobs


def _warn_of_unknown_images(edit: "PreparedEdit") -> None:
    where = "" if edit.job.line is None else f"line {edit.job.line}: "
    for number_ in edit.unknown:
        say(f"warning: {where}the instruction names image {number_}; images given: {len(edit.job.images)}")


def _settings(arguments, checkpoint, edit, index: int, device, mode: str, mix: "RewardMix | None") -> list[dict]:
    """Of each image of an edit: everything that decides it, and the command that makes it alone.

    `index`: of the line in a list.
    """
    from ..seeds import row_seeds

    job, count = edit.job, arguments.best_of
    first = index * count
    seeds = row_seeds(arguments.seed, count, first) if job.seed is None else row_seeds(job.seed, count)
    noise_seeds = seeds if arguments.noise_seed is None else row_seeds(arguments.noise_seed, count, first)
    facts = edit.files if mix is None else edit.files | facts_of(arguments, mix, seeds, noise_seeds)
    inputs = [f"--image=IMAGE{k}" for k in range(1, len(job.images) + 1)] + ["--mask=MASK"] * (job.mask is not None)
    rows = []
    for seed, noise_seed in zip(seeds, noise_seeds, strict=True):
        settings = {
            "instruction": job.instruction,
            "fit": arguments.fit,
            "reference_mode": mode,
            **{f"{name}_strength": getattr(arguments, f"{name}_strength") for name in _STRENGTHS},
            "seed": seed,
            "noise_seed": noise_seed,
            **generation_settings(arguments, device),
        }
        # With a mask the size follows from the first image.
        settings |= {"feather": arguments.feather} if job.mask else {"size": f"{edit.size[0]}x{edit.size[1]}"}
        words = ["edit", *inputs, *option_words(settings)]
        rows.append(stored_settings(arguments, checkpoint, settings, facts, words))
    return rows


@dataclass(frozen=True)
class Editor:
    """A loaded pipeline, and what all edits of a run share."""

    pipeline: "Pipeline"
    sampling: "Sampling"
    guidance: "GuidanceSchedule"
    strengths: "Strengths"
    reference_mode: "ReferenceMode"
    summary: Summary


def run_edit(editor: Editor, edit: "PreparedEdit", rows: Sequence[dict], label: str) -> "Candidates":
    """Make one prepared edit -> an image (H, W, 3) for each row of settings, which differ in their seeds.

    `label`: words before each line that is said about it.
    """
    from ..editing import masks
    from ..editing.jobs import opened, opened_mask
    from ..editing.references import EditInputs
    from ..images.preprocess import to_tensor
    from ..rewards.best_of import render_each
    from ..rewards.interface import Candidates

    settings, number = rows[0], len(rows)
    job, pipeline = edit.job, editor.pipeline
    read = [opened(path) for path in job.images]
    images = [each.image for each in read]
    mask, mask_facts = (None, None) if job.mask is None else opened_mask(job.mask, images[0].size)
    if ([each.facts for each in read], mask_facts) != (edit.files["images"], edit.files.get("mask")):
        raise Blip3oError(f"An image or the mask of {job.out} changed during the run. Run it again.")
    references = pipeline.references(images, settings["fit"])
    for line, each in zip(references.summary(), read, strict=True):
        say("; ".join([label + line, *each.remarks]))
    if mask is not None:
        say(f"{label}mask: {float((mask > 0).double().mean()):.1%} of image 1 may change")
    limit, count = pipeline.checkpoint.prompt_limit, len(references)
    several = "reference" if count == 1 else "references"
    each = references.codes.shape[1]
    say(f"{label}prompt {edit.prompt_tokens:,} of {limit:,} tokens, {count} {several} x {each:,}")
    with editor.summary.part("tokens"), Bar(f"{label}tokens") as bar:
        tokens = pipeline.generate_tokens(
            [job.instruction] * number,
            [row["seed"] for row in rows],
            editor.sampling,
            references=references,
            callback=bar,
            negative_prompt=settings.get("negative_prompt"),
        )
    editor.summary.tokens += tokens.codes.numel()
    inputs = EditInputs(references, editor.strengths, editor.reference_mode, mask)
    with editor.summary.part("diffusion"), Bar(f"{label}diffusion") as bar:
        made = render_each(
            pipeline, tokens, [row["noise_seed"] for row in rows],
            size=edit.size, steps=settings["steps"], guidance=editor.guidance, callback=bar, edit=inputs,
        )  # fmt: skip
    editor.summary.images += number
    pixels = [to_tensor(image)[0] for image in images]
    if mask is not None:
        made = [masks.composite(pixels[0], one, mask, settings["feather"]) for one in made]
    return Candidates(made, [job.instruction] * number, [pixels] * number, [mask] * number)
