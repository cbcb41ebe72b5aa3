"""`blip3o grpo`: reinforcement learning of the language model, for the tiny world's prompts and its judge."""

import argparse

from .common import needs_extra, print_entry
from .stopping import Stopping
from .train import RESUME, add_config_arguments, ended


def add_command(commands) -> None:
    parser = commands.add_parser(
        "grpo",
        help="improve the bundled model by reinforcement learning (GRPO)",
        description="Train the language model of a checkpoint with GRPO. Prompts are captions of the tiny world, and "
        "its judge gives the reward, so the checkpoint must make images of that world: the bundled model, or one that "
        "`blip3o recipe tiny` made. For other prompts and rewards call the library; docs/grpo.md shows how and lists "
        "the settings.",
        needs="grpo needs a YAML file with the settings of the run.",
        example="blip3o grpo grpo.yaml updates=140",
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run, parser=parser, cancelled=RESUME)


def run(arguments: argparse.Namespace) -> int:
    with needs_extra("train,rl"):
        from ..settings import load_settings
        from ..tiny.recipe.grpo import TinyGrpoSettings, improve
        from ..training.watch import Watch

    settings = load_settings(TinyGrpoSettings, arguments.config, arguments.overrides)
    with Stopping() as stop:
        best = improve(settings, arguments.resume, Watch(print_entry, stop=stop))
    return ended(best, stop)
