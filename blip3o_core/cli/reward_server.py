"""`blip3o reward-server`: a reward that other programs ask over HTTP."""

import argparse

from ..errors import shown
from .arguments import whole
from .common import needs_extra, say
from .parser import UsageError


def add_command(commands) -> None:
    parser = commands.add_parser(
        "reward-server",
        help="judge images for other programs",
        description="Answer requests for a reward over HTTP, until Ctrl-C. A run elsewhere uses it as the reward "
        "`http` with this server's address. So a judge can have its own machine, or its own Python with packages that "
        "do not fit into this one. docs/reward_servers.md has an example.",
        needs="reward-server needs a reward: --reward NAME or --reward FILE.yaml.",
        example="blip3o reward-server --reward tiny",
    )
    parser.add_argument(
        "--reward",
        required=True,
        metavar="NAME_OR_FILE",
        help="a built-in reward, or a YAML file with one reward under `rewards`",
    )
    parser.add_argument("--port", type=whole(0, 65535), default=8190, metavar="N", help="0: a free one (default: 8190)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen; everybody who reaches another address than the default can use the server (default: "
        "%(default)s, this machine alone)",
    )
    group = parser.group("Limits")
    group.add_argument(
        "--max-images", type=whole(1, 10_000), default=64, metavar="N", help="in a request (default: %(default)s)"
    )
    group.add_argument(
        "--max-megabytes", type=whole(1, 4096), default=64, metavar="N", help="of a request (default: %(default)s)"
    )
    group.add_argument(
        "--max-megapixels",
        type=whole(1, 4096),
        default=64,
        metavar="N",
        help="of all images, references and masks of a request (default: %(default)s)",
    )
    parser.set_defaults(run=run, parser=parser, cancelled="Cancelled. The server no longer answers.")


def run(arguments: argparse.Namespace) -> int:
    with needs_extra("train"):
        from ..rewards.best_of import read_rewards
        from ..rewards.server import RewardServer
        from ..rewards.web import is_loopback
        from ..rewards.wire import Limits

    mix = read_rewards([arguments.reward], own_code=True)
    if len(mix.parts) > 1:
        raise UsageError(
            f"{shown(arguments.reward)} has {len(mix.parts)} rewards. A server has one; start a server for each."
        )
    limits = Limits(arguments.max_images, arguments.max_megabytes * 2**20, arguments.max_megapixels * 10**6)
    with RewardServer(mix.parts[0], (arguments.host, arguments.port), limits, say) as server:
        print(f"{server.url} has the reward {mix.parts[0].name}. Ctrl-C stops it.", flush=True)
        if not is_loopback(arguments.host):
            say(
                f"warning: everybody who reaches {arguments.host} can use this server and sees what its judge says. It "
                "asks for no password and encrypts nothing. Let only machines that you trust reach it."
            )
        try:
            server.serve()
        except KeyboardInterrupt:  # also by SIGTERM: that is how a server ends
            say(arguments.cancelled)
    return 0
