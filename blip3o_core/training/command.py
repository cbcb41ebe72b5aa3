"""`python -m blip3o_core train CONFIG.yaml [--resume] [key=value ...]`."""

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


def run_train(arguments: argparse.Namespace) -> None:
    from .config import load_config
    from .loop import train

    config = load_config(arguments.config, arguments.overrides)
    print(train(config, arguments.resume, _print))


def _print(entry: dict) -> None:
    print(
        f"step {entry['step']}  loss {entry['loss']:.4f}  tokens {entry['tokens']:.4f}  "
        f"diffusion {entry['diffusion']:.4f}  gradient {entry['gradient_norm']:.3f}  {entry['seconds']:.2f} s",
        flush=True,
    )
