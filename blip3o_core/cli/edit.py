"""`python -m blip3o_core edit`: pictures changed as an instruction says, one or a list of them."""

import argparse
import sys
from pathlib import Path

from ..diffusion.reference_mode import REFERENCE_MODES, ReferenceMode, Strengths
from ..errors import Blip3oError
from ..images.preprocess import FITS
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

_STRENGTHS = {
    "text": "of what the language model says, 0 to 10",
    "cross": "of the references in cross-attention",
    "noise": "of the references beside the noise",
}


def add_edit_command(commands) -> None:
    edit = commands.add_parser(
        "edit",
        help="change pictures as an instruction says",
        description="Draw a picture from one to eight pictures and an instruction, or one per line of a list. "
        "docs/editing.md says more.",
        epilog="example: python -m blip3o_core edit --image circle.png --instruction "
        '"make the circle blue" --out blue.png',
    )
    edit.add_argument(
        "--image", type=Path, action="append", metavar="FILE", help="picture to start from; again for each further one"
    )
    edit.add_argument("--instruction", help='what to change; "image 2" is the second --image')
    edit.add_argument(
        "--list", type=Path, metavar="FILE.jsonl", help="instead: one JSON object a line, with image or images, "
        "instruction, and where wanted mask, out, seed; pictures already there are skipped",
    )  # fmt: skip
    edit.add_argument(
        "--out", type=Path, required=True, help="PNG to write; with --list a folder for 00000.png, 00001.png, ..."
    )
    edit.add_argument(
        "--mask", type=Path, metavar="FILE",
        help="picture as large as the first image, white where it may change; everything else stays as it is",
    )  # fmt: skip
    edit.add_argument(
        "--feather", type=int, default=0, metavar="N", help="pixels inside the mask to blend over (default 0)"
    )
    edit.add_argument(
        "--fit", choices=FITS, default="stretch", help="how pictures become square for the tokens (default stretch)"
    )
    edit.add_argument(
        "--reference-mode", choices=REFERENCE_MODES, default="auto",
        help="how the diffusion sees the pictures: by the tokens alone, in cross-attention, beside the noise, or both "
        "(auto: all that the checkpoint has)",
    )  # fmt: skip
    for name, what in _STRENGTHS.items():
        edit.add_argument(f"--{name}-strength", type=float, default=1.0, metavar="X", help=f"{what} (default 1)")
    add_model_options(edit)
    add_seed_options(edit)
    add_rendering_options(edit, "the first image's shape, at as many pixels as the model was trained at")
    add_interval_option(edit)
    add_sampling_options(edit)
    edit.set_defaults(run=run_edit)


def run_edit(arguments: argparse.Namespace) -> None:
    from ..checkpoint.bundled import resolve_checkpoint
    from ..checkpoint.checkpoint import open_checkpoint
    from ..editing.jobs import prepare_all
    from ..images.png import check_writable
    from ..pipeline import Pipeline, check_rendering

    edits = _edits(arguments)
    size, sampling = parse_size(arguments.size), sampling_of(arguments)
    strengths = Strengths(arguments.text_strength, arguments.cross_strength, arguments.noise_strength)
    device = device_of(arguments.device)
    checkpoint = open_checkpoint(resolve_checkpoint(arguments.checkpoint), arguments.diffusion_folder)
    interval = interval_of(arguments)
    check_rendering(checkpoint, size, arguments.steps, arguments.guidance, interval)
    name, mode = checkpoint.reference_mode.select(arguments.reference_mode, strengths, str(checkpoint.folder))
    negative = (arguments.negative_prompt or "") if sampling.guidance > 1 else None
    prepared = prepare_all(
        edits, arguments.list, checkpoint, fit=arguments.fit, size=size, feather=arguments.feather, negative=negative
    )
    for one in prepared:
        for number in one.unknown:
            where = "" if one.job.line is None else f"line {one.job.line}: "
            _say(f"warning: {where}the instruction names image {number}; images given: {len(one.job.images)}")
    planned = [(one, _settings(arguments, checkpoint, one, k, device, name)) for k, one in enumerate(prepared)]
    if arguments.list is not None:
        planned = [plan for plan in planned if not _is_there(*plan)]
    if not planned:
        return
    check_writable(planned[0][0].job.out.parent)
    pipeline = Pipeline(checkpoint, device, dtype_of(arguments.dtype))
    for k, (one, settings) in enumerate(planned, 1):
        label = f"{k}/{len(planned)} " if len(planned) > 1 else ""
        _draw(pipeline, one, settings, sampling, interval, strengths, mode, label)
        print(one.job.out)


def _edits(arguments: argparse.Namespace) -> list:
    """What is asked for, one edit or those of the list."""
    from ..editing.jobs import EditJob, read_list
    from ..editing.masks import check_feather

    check_feather(arguments.feather)
    if arguments.list is None:
        if not arguments.image:
            raise Blip3oError("There is no image to edit. Give --image FILE, once for each picture, or --list FILE.")
        if arguments.instruction is None:
            raise Blip3oError("There is no instruction. Say what should change with --instruction TEXT.")
        check_picture_name(arguments.out, "edit")
        edits = [EditJob(arguments.image, arguments.instruction, arguments.out, arguments.mask)]
    else:
        for option in ("image", "instruction", "mask"):
            if getattr(arguments, option) is not None:
                raise Blip3oError(f'--{option} does not go with --list. Write "{option}" into the lines of the list.')
        edits = read_list(arguments.list, arguments.out)
    if arguments.feather and not any(edit.mask for edit in edits):
        raise Blip3oError(f"--feather is {arguments.feather}, but there is no mask. Give a mask, or leave it out.")
    return edits


def _settings(arguments, checkpoint, one, index: int, device, mode: str) -> dict:
    """Everything that decides the picture, and the command that draws it alone. `index`: of the line in a list."""
    from ..seeds import row_seeds

    edit = one.job
    [seed] = row_seeds(arguments.seed, 1, index) if edit.seed is None else row_seeds(edit.seed, 1)
    [noise_seed] = [seed] if arguments.noise_seed is None else row_seeds(arguments.noise_seed, 1, index)
    options = {
        "instruction": edit.instruction, "fit": arguments.fit, "reference_mode": mode,
        **{f"{name}_strength": getattr(arguments, f"{name}_strength") for name in _STRENGTHS},
        "seed": seed, "noise_seed": noise_seed, "steps": arguments.steps, "guidance": arguments.guidance,
        "top_k": arguments.top_k, "top_p": arguments.top_p, "temperature": arguments.temperature,
        "token_guidance": arguments.token_guidance, "dtype": arguments.dtype, "device": str(device),
        **interval_settings(arguments),
    }  # fmt: skip
    # With a mask the size follows from the first image.
    options |= {"feather": arguments.feather} if edit.mask else {"size": f"{one.size[0]}x{one.size[1]}"}
    if arguments.negative_prompt is not None:
        options["negative_prompt"] = arguments.negative_prompt
    return stored_settings(arguments, checkpoint, "edit", options, one.files)


def _is_there(one, settings: dict) -> bool:
    """Whether a whole picture with these settings is where this one would be written; then its name is said."""
    from ..images.png import is_made_with

    there = is_made_with(one.job.out, settings)
    if there:
        _say(f"skipped {one.job.out}: it is there, with the same settings")
    return there


def _draw(
    pipeline, one, settings: dict, sampling, interval, strengths: Strengths, reference_mode: ReferenceMode, label: str
) -> None:
    from ..editing import masks as masking
    from ..editing.jobs import open_mask, opened
    from ..images.png import save_png
    from ..images.preprocess import to_tensor

    edit = one.job
    read = [opened(path) for path in edit.images]
    if [facts for facts, _ in read] != settings["images"]:
        raise Blip3oError(f"{edit.images[0]} or another image of {edit.out} changed during the run. Run it again.")
    pictures = [picture for _, picture in read]
    mask = None if edit.mask is None else open_mask(edit.mask, pictures[0].size)
    references = pipeline.references(pictures, settings["fit"])
    for line in references.described():
        _say(label + line)
    limit, count = pipeline.checkpoint.prompt_limit, len(references)
    several = "reference" if count == 1 else "references"
    each = references.codes.shape[1]
    _say(f"{label}prompt {one.prompt_tokens:,} of {limit:,} tokens, {count} {several} x {each:,}")
    with Bar(f"{label}tokens") as bar:
        tokens = pipeline.generate_tokens(
            [edit.instruction], [settings["seed"]], sampling, references=references, callback=bar,
            negative_prompt=settings.get("negative_prompt"),
        )  # fmt: skip
    with Bar(f"{label}diffusion") as bar:
        [image] = pipeline.render(
            tokens, [settings["noise_seed"]], one.size, settings["steps"], settings["guidance"], bar,
            references=references, strengths=strengths, reference_mode=reference_mode, change_mask=mask,
            interval=interval,
        )  # fmt: skip
    if mask is not None:
        image = masking.composite(to_tensor(pictures[0])[0], image.cpu(), mask, settings["feather"])
    save_png(edit.out, image, settings)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
