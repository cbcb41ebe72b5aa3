"""`blip3o train`, and `blip3o add-references`, which makes a checkpoint ready to learn edits."""

import argparse
from pathlib import Path

from .arguments import add_checkpoint_options, seed, setting
from .common import needs_extra, open_checkpoint, say
from .stopping import Stopping

RESUME = "Cancelled. To continue from the last saved checkpoint, run the same command with --resume."


def add_commands(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a checkpoint on images with captions",
        description="Train the parts of a checkpoint that a YAML file names. docs/training.md lists its settings.",
        needs="train needs a YAML file with the settings of the run.",
        example="blip3o train recipe.yaml steps=2000 train.connector=1e-4",
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run_train, parser=parser, cancelled=RESUME)

    parser = commands.add_parser(
        "add-references",
        help="make a text-to-image checkpoint ready to learn edits",
        description="Write a copy of a checkpoint in which reference images reach the diffusion transformer. It makes "
        "the same images as before until you train it on edits; docs/training.md says how.",
        needs="add-references needs --reference-mode cross, noise or both, and --out DIR.",
        example="blip3o add-references --checkpoint models/BLIP3o-NEXT --reference-mode cross --out models/edit",
    )
    add_checkpoint_options(parser)
    parser.add_argument(
        "--reference-mode",
        choices=("cross", "noise", "both"),
        required=True,
        help="where reference images enter: in cross-attention through a new connector (cross), next to the noise, one "
        "at most (noise), or both",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder to write")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the new connector (default: %(default)s)")
    parser.set_defaults(
        run=run_add_references,
        parser=parser,
        cancelled="Cancelled. Nothing was written: {out} appears when it is complete.",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """What a training command takes: a YAML file, settings in place of the file's, and --resume."""
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="YAML file with the settings")
    parser.add_argument(
        "overrides",
        type=setting,
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="settings to use in place of the file's",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in the folder that `out` names"
    )


def run_train(arguments: argparse.Namespace) -> int:
    with needs_extra("train"):
        from ..training.config import load_config
        from ..training.trainer import train
        from ..training.watch import Watch

    config = load_config(arguments.config, arguments.overrides)
    with Stopping() as stop:
        last = train(config, arguments.resume, Watch(_print, say, stop))
    return ended(last, stop)


def ended(last: Path | None, stop: Stopping) -> int:
    """Print the last checkpoint of a run, or say how to continue one that was stopped -> the exit status."""
    if not stop.taken:
        print(last)
        return 0
    saved = f"{last} is complete" if last else "Nothing was saved yet"
    say(f"Stopped. {saved}. To continue, run the same command with --resume.")
    return stop.status


def run_add_references(arguments: argparse.Namespace) -> None:
    from ..training.edit_checkpoint import add_references

    source = open_checkpoint(arguments)
    cross, noise = (arguments.reference_mode in (name, "both") for name in ("cross", "noise"))
    add_references(source, arguments.out, cross, noise, arguments.seed)
    print(arguments.out)


def _print(entry: dict) -> None:
    print(
        f"step {entry['step']}  loss {entry['loss']:.4f}  tokens {entry['tokens']:.4f}  "
        f"diffusion {entry['diffusion']:.4f}  gradient {entry['gradient_norm']:.3f}  {entry['seconds']:.2f} s",
        flush=True,
    )
