"""`python -m blip3o_core train CONFIG.yaml [--resume] [key=value ...]`, and `add-references` before learning edits."""

import argparse
from pathlib import Path

from .common import add_checkpoint_options


def add_train_command(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a checkpoint on pictures with captions",
        description="Train the parts of a checkpoint that a YAML file names. docs/training.md lists the settings.",
        epilog="example: python -m blip3o_core train recipe.yaml steps=2000 train.connector=1e-4",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file with the settings")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ from the file's")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the run's folder")
    parser.set_defaults(run=run_train)

    parser = commands.add_parser(
        "add-references",
        help="make an edit checkpoint of a text-to-image one",
        description="Write a copy of a checkpoint in which reference pictures reach the diffusion transformer. "
        "Train it on edits; docs/training.md says how.",
        epilog="example: python -m blip3o_core add-references --checkpoint models/BLIP3o-NEXT --reference-mode cross "
        "--out models/edit",
    )
    add_checkpoint_options(parser)
    parser.add_argument(
        "--reference-mode", choices=("cross", "noise", "both"), required=True,
        help="where references enter: in cross-attention, through a new connector; next to the noise, one at most; "
        "or in both places",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    parser.add_argument("--seed", type=int, default=0, help="of the new connector (default 0)")
    parser.set_defaults(run=run_add_references)


def run_train(arguments: argparse.Namespace) -> None:
    from ..training.config import load_config
    from ..training.trainer import train

    config = load_config(arguments.config, arguments.overrides)
    print(train(config, arguments.resume, _print))


def run_add_references(arguments: argparse.Namespace) -> None:
    from ..checkpoint.bundled import resolve_checkpoint
    from ..checkpoint.checkpoint import open_checkpoint
    from ..training.edit_checkpoint import add_references

    source = open_checkpoint(resolve_checkpoint(arguments.checkpoint), arguments.diffusion_folder)
    cross, noise = (arguments.reference_mode in (name, "both") for name in ("cross", "noise"))
    add_references(source, arguments.out, cross, noise, arguments.seed)
    print(arguments.out)


def _print(entry: dict) -> None:
    print(
        f"step {entry['step']}  loss {entry['loss']:.4f}  tokens {entry['tokens']:.4f}  "
        f"diffusion {entry['diffusion']:.4f}  gradient {entry['gradient_norm']:.3f}  {entry['seconds']:.2f} s",
        flush=True,
    )
