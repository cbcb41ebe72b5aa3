"""What several commands do: open the checkpoint and device they were given, store settings, show progress."""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path

from ..checkpoint.bundled import NAME, SHORT_NAME, display_name, resolve_checkpoint
from ..errors import Blip3oError, first_line, shown
from .device import device_name

CANCELLED = "Cancelled. Every image listed above is complete. Run the same command again to make the others."
CANCELLED_ONE = "Cancelled. Nothing was written, unless a file is listed above."
IMAGE_VERSION = 1  # raise it when the same settings begin to make other images: those of before are then made again


def say(line: str) -> None:
    """Print to standard error: standard output lists the files that were written and nothing else."""
    print(line, file=sys.stderr)


def report(path: Path) -> None:
    """Name a finished file on standard output, at once: a command that is killed has named what it made."""
    print(path, flush=True)


def print_entry(entry: dict) -> None:
    """One line of a training log: every name with its value."""
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in entry.items())
    print("  ".join(shown), flush=True)


def open_checkpoint(arguments: argparse.Namespace):
    """The checkpoint that the options of `add_checkpoint_options` name."""
    return open_named(arguments.checkpoint, arguments.diffusion_folder)


def open_named(name: str, diffusion_folder: Path | None = None):
    """The checkpoint in a folder, or the bundled one by its short name."""
    from ..checkpoint import recognise

    try:
        return recognise.open_checkpoint(resolve_checkpoint(name), diffusion_folder)
    except OSError as error:
        what = shown(error.filename or name)
        raise Blip3oError(
            f"{what} cannot be read: {first_line(error)}. Choose another checkpoint or diffusion folder."
        ) from error


def load_pipeline(arguments: argparse.Namespace, checkpoint, device, rows: int = 1):
    """The pipeline of an open checkpoint, in the number format that --dtype names. `rows`: images made together."""
    from ..pipeline import Pipeline
    from .processes import rank_and_count
    from .threads import set_threads

    if rank_and_count()[0] == 0:
        say(f"model: {_model_name(checkpoint)}; device: {device_name(device)}")
    set_threads(arguments.threads, checkpoint, device, rows)
    pipeline = Pipeline(checkpoint, device, dtype_of(arguments.dtype))
    for lora, strength in getattr(arguments, "loras", ()):
        pipeline.add_lora(lora, strength)
    return pipeline


def read_loras(arguments: argparse.Namespace, checkpoint) -> None:
    """Read the files of --lora into `arguments.loras`, with their strengths. Before weights are loaded."""
    from ..checkpoint.facts import LANGUAGE
    from ..checkpoint.networks import build
    from ..weights.lora import language_matrices, read_lora
    from .processes import rank_and_count

    arguments.loras = []
    wanted = [(file, strength) for file, strength in arguments.lora if strength != 0]
    if not wanted:
        return
    checkpoint.validate()
    matrices = language_matrices(build(checkpoint, LANGUAGE))
    for file, strength in wanted:
        lora = read_lora(file, matrices)
        arguments.loras.append((lora, strength))
        if rank_and_count()[0] == 0:
            say(f"LoRA {shown(file)}: {lora.summary}, strength {strength:g}")


def _model_name(checkpoint) -> str:
    name = display_name(checkpoint.folder)
    bundled = "the bundled one, for coloured shapes and short words only (--checkpoint DIR chooses another)"
    return bundled if name == NAME else name


def dtype_of(name: str):
    """The torch dtype that --dtype names; None for auto."""
    from ..weights.tensors import COMPUTE_DTYPES

    return COMPUTE_DTYPES.get(name)


def sampling_of(arguments: argparse.Namespace, guidance: float = 1.0):
    """What the options of `add_sampling_options` say; `guidance`: --token-guidance of a command that has it."""
    from ..decoding.sampling import Sampling

    if getattr(arguments, "negative_prompt", None) is not None and guidance <= 1:
        say("warning: --negative-prompt changes nothing without --token-guidance above 1")
    return Sampling(arguments.top_k, arguments.top_p, arguments.temperature, guidance=guidance)


@contextlib.contextmanager
def needs_extra(extra: str):
    """Around imports of packages that only the `extra` of this project brings: says how to install them."""
    try:
        yield
    except ImportError as error:
        raise Blip3oError(
            f"This command needs more packages: {error}. Install them with pip install -e '.[{extra}]' in the folder "
            "of this project."
        ) from error


def compute_settings(arguments: argparse.Namespace, device) -> dict:
    """What an image is computed with, as it is stored: the kind of device, because its number decides nothing."""
    return {"dtype": arguments.dtype, "device": device.type}


def generation_settings(arguments: argparse.Namespace, device) -> dict:
    """The settings that `generate` and `edit` share, as they are stored with an image."""
    names = ("steps", "guidance", "top_k", "top_p", "temperature", "token_guidance")
    settings = {name: getattr(arguments, name) for name in names} | compute_settings(arguments, device)
    start, end = arguments.guidance_interval
    if (start, end) != (0, 1):
        settings["guidance_interval"] = f"{start}-{end}"
    if arguments.enlarge > 1:
        settings["enlarge"] = arguments.enlarge
    if arguments.negative_prompt is not None and arguments.token_guidance > 1:
        settings["negative_prompt"] = arguments.negative_prompt
    return settings


def option_words(settings: dict) -> list[str]:
    """A command's words for settings that are stored under their options' names."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def stored_settings(arguments: argparse.Namespace, checkpoint, settings: dict, facts: dict, words: list[str]) -> dict:
    """What is stored with an image: its `settings`, other `facts` that decide it, and the command that makes it again.

    `facts`: of its input files, and how many images were computed together. `words`: the command without the checkpoint
    and the output. Names of the user's files and folders are private: the command says DIR, OUT.png, IMAGE1, ...
    """
    words, loras = ["blip3o", *words], getattr(arguments, "loras", [])
    words += [f"--lora=LORA{number}:{strength:g}" for number, (_, strength) in enumerate(loras, 1)]
    facts = facts | ({"loras": [lora.identity(strength) for lora, strength in loras]} if loras else {})
    if arguments.diffusion_folder is not None:
        words.append("--diffusion-folder=DIFFUSION_DIR")
    if arguments.checkpoint != SHORT_NAME:
        words.append("--checkpoint=DIR")
    return {
        **settings,
        **facts,
        "checkpoint": display_name(checkpoint.folder),
        "weights": checkpoint.identity,
        "tokens": str(checkpoint.codes_id),
        "version": IMAGE_VERSION,
        "command": shlex.join([*words, "--out=OUT.png"]),
    }


def are_made(paths: list[Path], settings: list[dict], ignored: tuple[str, ...] = ()) -> bool:
    """Whether all these images are there already, each with its stored settings but those `ignored`; if so, say it."""
    from ..images.png import is_made_with

    # A checkpoint's name decides nothing, its weights do.
    ignored = ("checkpoint", "command", *ignored)
    made = all(is_made_with(path, own, ignored) for path, own in zip(paths, settings, strict=True))
    for path in paths if made else ():
        say(f"skipped {path}: it exists, with the same settings")
    return made


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
