"""`blip3o diffusion-rl`: reinforcement learning of the diffusion, by rewards."""

import argparse

from .common import needs_extra, print_entry, say
from .stopping import Stopping
from .train import RESUME, add_config_arguments, ended


def add_command(commands) -> None:
    parser = commands.add_parser(
        "diffusion-rl",
        help="improve the diffusion by reinforcement learning (DiffusionNFT, Flow-GRPO)",
        description="Train a LoRA on the diffusion transformer of a checkpoint by rewards: it renders several images "
        "of each prompt, rewards judge them, and it learns to render more like the better ones. The language model "
        "stays as it is. The YAML file names the rewards and the prompts, for images or for edits; "
        "docs/diffusion_rl.md lists all settings.",
        needs="diffusion-rl needs a YAML file with the settings of the run.",
        example="blip3o diffusion-rl diffusion.yaml updates=200",
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run, parser=parser, cancelled=RESUME)


def run(arguments: argparse.Namespace) -> int:
    with needs_extra("train"):
        from ..settings import load_settings
        from ..training.diffusion_rl.settings import DiffusionRlSettings
        from ..training.diffusion_rl.train import train
        from ..training.watch import Watch

    settings = load_settings(DiffusionRlSettings, arguments.config, arguments.overrides)
    with Stopping() as stop:
        best = train(settings, arguments.resume, Watch(print_entry, say, stop), own_code=True)
    return ended(best, stop)
