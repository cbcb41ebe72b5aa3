"""`python -m blip3o_core train CONFIG.yaml [--resume] [key=value ...]`, and `add-references` before learning edits."""

import argparse
from pathlib import Path


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
        epilog="example: python -m blip3o_core add-references models/BLIP3o-NEXT models/edit --cross",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder to start from")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("--cross", action="store_true", help="by cross-attention, through a new connector")
    parser.add_argument("--noise", action="store_true", help="beside the noise, one reference at most")
    parser.add_argument("--seed", type=int, default=0, help="of the new connector (default 0)")
    parser.add_argument("--diffusion-folder", type=Path, metavar="DIR", help="as for generate")
    parser.set_defaults(run=run_add_references)


def run_train(arguments: argparse.Namespace) -> None:
    from ..training.config import load_config
    from ..training.trainer import train

    config = load_config(arguments.config, arguments.overrides)
    print(train(config, arguments.resume, _print))


def run_add_references(arguments: argparse.Namespace) -> None:
    from ..checkpoint.checkpoint import open_checkpoint
    from ..training.edit_checkpoint import add_references

    source = open_checkpoint(arguments.checkpoint, arguments.diffusion_folder)
    add_references(source, arguments.out, arguments.cross, arguments.noise, arguments.seed)
    print(arguments.out)


def _print(entry: dict) -> None:
    print(
        f"step {entry['step']}  loss {entry['loss']:.4f}  tokens {entry['tokens']:.4f}  "
        f"diffusion {entry['diffusion']:.4f}  gradient {entry['gradient_norm']:.3f}  {entry['seconds']:.2f} s",
        flush=True,
    )
