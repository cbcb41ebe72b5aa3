"""The words of the command line: values that are checked as they are read, and options that commands share.

Nothing heavy is imported here or at the top of a command's module, see `parser`. The library's defaults and choices are
therefore written out here again; tests/cli compares them.
"""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from ..checkpoint.bundled import SHORT_NAME
from ..errors import shown
from .parser import Parser, UsageError, quoted

# Groups of options, as --help and docs/cli.md show them.
IMAGE, REFERENCES, TOKENS, DIFFUSION = "Image", "References", "Tokens", "Diffusion"
MODEL, MACHINE = "Model", "Machine"
DTYPES = ("auto", "bf16", "fp32")
FITS = ("stretch", "pad", "crop", "authors")
REFERENCE_MODES = ("auto", "tokens", "cross", "noise", "both")
SIZE_EXAMPLE = "write width and height in pixels, like 1024x768"


def number(kind: type, allowed: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """An option's type: an int or a float for which `holds` is true. Write `holds` so that NaN fails."""
    what = "a whole number" if kind is int else "a number"

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not {what}; it must be {allowed}") from None
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{shown(text, 40)} is out of range; it must be {allowed}")
        return value

    return parse


def whole(least: int, most: int) -> Callable[[str], float]:
    """An option's type: a whole number from `least` to `most`."""
    return number(int, f"from {least} to {most:,}", lambda value: least <= value <= most)


positive = whole(1, 1_000_000)
steps = whole(1, 10_000)
processes = whole(1, 256)
not_negative = number(float, "from 0 to 1,000,000", lambda value: 0 <= value <= 1_000_000)
strength = number(float, "from 0 to 10", lambda value: 0 <= value <= 10)
# As on the nodes. Elsewhere -1 asks for a random seed; here an image can always be made again.
seed = whole(0, 2**64 - 1)


def size(text: str) -> tuple[int, int]:
    """An option's type: WxH in pixels."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a size; {SIZE_EXAMPLE}")
    return int(found[1]), int(found[2])


def interval(text: str) -> tuple[float, float]:
    """An option's type: A-B, two numbers from 0 to 1."""
    try:
        start, end = map(float, re.split(r"(?<=[0-9.])-", text.strip()))
    except ValueError:
        start, end = math.nan, math.nan
    if not 0 <= start <= end <= 1:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not an interval; write where guidance starts and ends, from 0 to 1, like 0.2-0.8"
        )
    return start, end


def lora(text: str) -> tuple[Path, float]:
    """An option's type: FILE or FILE:STRENGTH. A file's own name may hold a colon."""
    file, colon, end = text.rpartition(":")
    try:
        value = float(end) if colon and file and not os.path.lexists(text) else None
    except ValueError:
        value = None
    if value is None:
        return Path(text), 1.0
    if not -10 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: the strength must be a number from -10 to 10, like 0.5")
    return Path(file), value


def setting(text: str) -> str:
    """An option's type: KEY=VALUE."""
    if "=" not in text or text.startswith("="):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a setting; write KEY=VALUE, like steps=100")
    return text


def check_png_out(out: Path | None) -> None:
    """Raise UsageError unless --out of a single image is left out or the name of a PNG file."""
    if out is not None and (out.suffix.lower() != ".png" or os.path.isdir(out)):
        raise UsageError(f"--out is {shown(out)}; for a single image it must be the name of a .png file.")


def png_file(text: str) -> Path:
    """An option's type: the name of a PNG file."""
    path = Path(text)
    if path.suffix.lower() != ".png" or os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{shown(text)} must be the name of a .png file")
    return path


def add_checkpoint_options(parser: Parser) -> None:
    group = parser.group(MODEL)
    group.add_argument(
        "--checkpoint",
        default=SHORT_NAME,
        metavar="DIR_OR_NAME",
        help="checkpoint folder, or %(default)s for the bundled model (default: %(default)s)",
    )
    group.add_argument(
        "--diffusion-folder",
        type=Path,
        metavar="DIR",
        help="folder with the configs transformer/ and vae/ (default: looked for in and next to the checkpoint)",
    )


def add_model_options(parser: Parser, dtype: str = "auto") -> None:
    """The checkpoint and where it runs. `dtype`: the default."""
    add_checkpoint_options(parser)
    add_compute_options(parser, dtype)


def add_compute_options(parser: Parser, dtype: str = "auto") -> None:
    """Where a checkpoint runs, and in which numbers. `dtype`: the default."""
    parser.group(MODEL).add_argument(
        "--dtype",
        choices=DTYPES,
        default=dtype,
        help="number format; auto: as stored, fp32 for fp16, which overflows (default: %(default)s)",
    )
    group = parser.group(MACHINE)
    group.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps, ... (default: the GPU when there is one)",
    )
    group.add_argument(
        "--threads",
        type=whole(1, 1024),
        metavar="N",
        help="CPU threads (default: 1 where a small model makes one image at a time, else torch's choice)",
    )


def add_lora_option(parser: Parser) -> None:
    parser.group(MODEL).add_argument(
        "--lora",
        type=lora,
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="LoRA for the language model: a .safetensors file, or the folder adapter that training wrote; strength "
        "from -10 to 10 (default: 1). Give it again for each LoRA: they add up",
    )


def add_seed_options(parser: Parser) -> None:
    parser.group(IMAGE).add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="seed; line k of a file, counted from 0, uses seed + k (default: %(default)s)",
    )
    parser.group(DIFFUSION).add_argument(
        "--noise-seed",
        type=seed,
        metavar="N",
        help="seed of the diffusion noise, to change only that (default: as --seed)",
    )


def add_output_options(parser: Parser, where: str) -> None:
    """`where`: words for what --out is with a list of images."""
    group = parser.group(IMAGE)
    group.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help=f"PNG file to write (default: the next free number in the folder output, like output/00001.png); {where}",
    )
    group.add_argument(
        "--enlarge",
        type=whole(1, 64),
        default=1,
        metavar="N",
        help="write the image N times as wide and high. Below 256 pixels each pixel becomes a square, above it is "
        "interpolated (Lanczos) (default: %(default)s)",
    )


def add_rendering_options(parser: Parser, default_size: str) -> None:
    """`default_size`: words for the size that an image gets without --size."""
    parser.group(IMAGE).add_argument(
        "--size", type=size, metavar="WxH", help=f"image size in pixels (default: {default_size})"
    )
    add_diffusion_options(parser, 30)


def add_diffusion_options(parser: Parser, default_steps: int) -> None:
    group = parser.group(DIFFUSION)
    group.add_argument(
        "--steps", type=steps, default=default_steps, metavar="N", help="diffusion steps (default: %(default)s)"
    )
    group.add_argument(
        "--guidance",
        type=not_negative,
        default=2.0,
        metavar="X",
        help="diffusion guidance; 1 turns it off (default: %(default)s)",
    )


def add_interval_option(parser: Parser) -> None:
    parser.group(DIFFUSION).add_argument(
        "--guidance-interval",
        type=interval,
        default=(0.0, 1.0),
        metavar="A-B",
        help="use guidance only in this part of the steps; 0 is the first step, 1 the last. The other steps take half "
        "the time (default: 0-1, all steps)",
    )


def add_sampling_options(parser: Parser) -> None:
    group = parser.group(TOKENS)
    group.add_argument(
        "--top-k",
        type=whole(0, 2**31 - 1),
        default=1200,
        metavar="K",
        help="choose each image token among the K likeliest; 0: all, 1: always the likeliest (default: %(default)s)",
    )
    group.add_argument(
        "--top-p",
        type=number(float, "above 0 and at most 1", lambda value: 0 < value <= 1),
        default=0.95,
        metavar="X",
        help="of those, keep the likeliest whose probabilities add up to this (default: %(default)s)",
    )
    group.add_argument(
        "--temperature",
        type=not_negative,
        default=1.0,
        metavar="X",
        help="above 1 more varied, below 1 more predictable; 0: always the likeliest (default: %(default)s)",
    )


def add_token_guidance_options(parser: Parser) -> None:
    group = parser.group(TOKENS)
    group.add_argument(
        "--negative-prompt", metavar="TEXT", help="what the image should not show; needs --token-guidance above 1"
    )
    group.add_argument(
        "--token-guidance",
        type=number(float, "from 1 to 1000", lambda value: 1 <= value <= 1000),
        default=1.0,
        metavar="X",
        help="guidance on the image tokens; 1 turns it off (default: %(default)s)",
    )
