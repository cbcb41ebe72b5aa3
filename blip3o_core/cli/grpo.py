"""`blip3o grpo`: reinforcement learning of the language model, by rewards."""

import argparse

from .common import needs_extra, print_entry, say
from .stopping import Stopping
from .train import RESUME, add_config_arguments, ended


def add_command(commands) -> None:
    parser = commands.add_parser(
        "grpo",
        help="improve the language model by reinforcement learning (GRPO)",
        description="Train the language model of a checkpoint with GRPO: it makes several images of each prompt, "
        "rewards judge them, and the model learns to make more like the better ones. The YAML file names the rewards "
        "and the prompts, for images or for edits; docs/grpo.md lists all settings.",
        needs="grpo needs a YAML file with the settings of the run.",
        example="blip3o grpo grpo.yaml updates=140",
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run, parser=parser, cancelled=RESUME)


def run(arguments: argparse.Namespace) -> int:
    with needs_extra("train,rl"):
        from ..settings import load_settings
        from ..tiny.recipe.grpo import variant
        from ..training.grpo.settings import GrpoSettings
        from ..training.grpo.train import train
        from ..training.watch import Watch

    settings = load_settings(GrpoSettings, arguments.config, arguments.overrides, variant)
    with Stopping() as stop:
        best = train(settings, arguments.resume, Watch(print_entry, say, stop), own_code=True)
    return ended(best, stop)
