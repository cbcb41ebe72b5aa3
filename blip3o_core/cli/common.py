"""What several commands share: options, the settings stored with a picture, and a progress bar."""

import argparse
import re
import shlex
import sys
from pathlib import Path

from ..checkpoint.bundled import SHORT_NAME, display_name, resolve_checkpoint
from ..decoding.sampling import Sampling
from ..errors import Blip3oError

DTYPES = ("auto", "bf16", "fp16", "fp32")


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", default=SHORT_NAME, metavar="DIR_OR_NAME",
        help=f"checkpoint folder, or {SHORT_NAME} for the bundled model (default: {SHORT_NAME})",
    )  # fmt: skip
    parser.add_argument(
        "--diffusion-folder", type=Path, metavar="DIR",
        help="folder with the configs transformer/ and vae/ (default: looked for in and next to the checkpoint)",
    )  # fmt: skip


def add_model_options(parser: argparse.ArgumentParser, dtype: str = "auto") -> None:
    """`dtype`: the default."""
    add_checkpoint_options(parser)
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, ... (default: the GPU when there is one)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=dtype, help=f"number format; auto: as stored (default {dtype})"
    )


def add_seed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="seed; the picture of row k uses seed + k (default 0)")
    parser.add_argument(
        "--noise-seed", type=int, help="seed of the diffusion noise, when only that should change (default: as --seed)"
    )


def add_rendering_options(parser: argparse.ArgumentParser, size: str) -> None:
    """`size`: what a picture's size is when none is asked for."""
    parser.add_argument("--steps", type=int, default=30, help="diffusion steps (default 30)")
    parser.add_argument("--guidance", type=float, default=2.0, help="diffusion guidance, 1 turns it off (default 2.0)")
    parser.add_argument("--size", metavar="WxH", help=f"picture size in pixels (default: {size})")


def add_interval_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guidance-interval", metavar="A-B", default="0-1",
        help="guide only in this part of the steps, 0 the first and 1 the last; the others take half the work "
        "(default 0-1: all of them)",
    )  # fmt: skip


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    defaults = Sampling()
    parser.add_argument(
        "--top-k",
        type=int,
        default=defaults.top_k,
        help="sample among the K likeliest tokens; 0: all, 1: greedy (1200)",
    )
    parser.add_argument(
        "--top-p", type=float, default=defaults.top_p, help="and among those that hold this mass (0.95)"
    )
    parser.add_argument("--temperature", type=float, default=defaults.temperature, help="0 is greedy (default 1.0)")
    parser.add_argument("--negative-prompt", help="what to lead the tokens away from, with --token-guidance above 1")
    parser.add_argument(
        "--token-guidance", type=float, default=1.0, help="guidance on the token logits (default 1: off)"
    )


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    """What the options of `add_sampling_options` say."""
    return Sampling(arguments.top_k, arguments.top_p, arguments.temperature, guidance=arguments.token_guidance)


def parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise Blip3oError(f"--size is {text!r}; write width and height in pixels, like 1024x768.")
    return int(parts[0]), int(parts[1])


def interval_of(arguments: argparse.Namespace) -> tuple[float, float]:
    """What the option of `add_interval_option` says; where it may lie is checked with the rest of the rendering."""
    text = arguments.guidance_interval
    try:
        start, end = map(float, re.split(r"(?<=[0-9.])-", text.strip()))
    except ValueError as error:
        raise Blip3oError(
            f"--guidance-interval is {text!r}; write where guidance starts and ends, from 0 to 1, like 0.2-0.8."
        ) from error
    return start, end


def interval_settings(arguments: argparse.Namespace) -> dict:
    """What is stored of it: nothing of a whole one, so that settings stored before there was the option stay equal."""
    start, end = interval_of(arguments)
    return {} if (start, end) == (0, 1) else {"guidance_interval": f"{start}-{end}"}


def check_picture_name(out: Path, what: str) -> None:
    """Raise Blip3oError unless `out` can be a picture's file; `what`: what it is the picture of."""
    if out.is_dir() or out.suffix.lower() != ".png":
        raise Blip3oError(f"--out is {out}; for one {what} it must be the name of a .png file.")


def stored_settings(
    arguments: argparse.Namespace, checkpoint, command: str, options: dict, files: dict | None = None
) -> dict:
    """What is stored with a picture: `options`, what is known of its `files`, and the command that makes it again.

    Files go into the command under names that stand for them ("--image=IMAGE1"): their own are nobody's business.
    """
    words = []
    for name, known in (files or {}).items():
        many = isinstance(known, list)
        option, stand_in = (name.removesuffix("s") if many else name), name.removesuffix("s").upper()
        words += [f"--{option}={stand_in}{k}" for k in range(1, len(known) + 1)] if many else [f"--{option}={stand_in}"]
    words += [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    if arguments.diffusion_folder is not None:
        words.append("--diffusion-folder=DIFFUSION_DIR")
    if arguments.checkpoint != SHORT_NAME:
        words.append("--checkpoint=DIR")
    return {
        **options,
        **(files or {}),
        "checkpoint": display_name(checkpoint.folder),
        "tokens": str(checkpoint.codes_id),
        "command": shlex.join(["python", "-m", "blip3o_core", command, *words, "--out=OUT.png"]),
    }


def load_pipeline(arguments: argparse.Namespace):
    """The pipeline that the options of `add_model_options` name."""
    from ..pipeline import Pipeline

    folder = resolve_checkpoint(arguments.checkpoint)
    device, dtype = device_of(arguments.device), dtype_of(arguments.dtype)
    return Pipeline.load(folder, device, dtype, arguments.diffusion_folder)


def device_of(name: str):
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise Blip3oError(f"--device {name!r} cannot be used: {reason}. Try cpu or cuda.") from error
    return device


def dtype_of(name: str):
    import torch

    return {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


class Bar:
    """A progress bar that is a callback (done, total, anything)."""

    def __init__(self, label: str):
        from tqdm import tqdm

        self._bar = tqdm(desc=label, leave=False, file=sys.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def __call__(self, done: int, total: int, _) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
