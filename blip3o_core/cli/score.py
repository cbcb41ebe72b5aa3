"""`blip3o score`: what rewards say about images that exist."""

import argparse
import json
from pathlib import Path

from ..errors import shown
from .common import say


def add_command(commands) -> None:
    parser = commands.add_parser(
        "score",
        help="score images by rewards",
        description="Score images by rewards: a line for each image with the number of each reward and their weighted "
        "sum. A reward that has nothing to say about an image leaves a dash. docs/rewards.md lists the rewards.",
        needs="score needs images, their prompt and what scores them: blip3o score FILE --prompt TEXT --reward NAME.",
        example='blip3o score circle.png --prompt "a red circle" --reward tiny',
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the prompt or instruction of all images")
    parser.add_argument(
        "--reward",
        action="append",
        required=True,
        metavar="NAME_OR_FILE.yaml",
        help="a built-in reward, such as text, or a YAML file that lists rewards; give it again for each reward",
    )
    parser.add_argument("--reference", type=Path, metavar="FILE", help="the image that an edit started from")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="white where the edit may change the reference")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run, parser=parser, cancelled="Cancelled.")


def run(arguments: argparse.Namespace) -> None:
    from ..images.preprocess import to_tensor
    from ..images.reader import open_image, open_mask
    from ..rewards.best_of import read_rewards
    from ..rewards.interface import Candidates

    mix, count = read_rewards(arguments.reward, own_code=True), len(arguments.images)
    images = [to_tensor(open_image(path))[0] for path in arguments.images]
    references = [to_tensor(open_image(arguments.reference))[0]] if arguments.reference else []
    mask = open_mask(arguments.mask) if arguments.mask else None
    scores = mix.score(Candidates(images, [arguments.prompt] * count, [references] * count, [mask] * count))
    for problem in scores.problems:
        say(f"warning: {problem}")
    # Each image for itself: a sum says nothing of a reward that judged none of it.
    totals = mix.totals(scores, 1)
    rows = [
        {"image": str(path), "total": total, "rewards": {name: one[place] for name, one in scores.parts.items()}}
        for place, (path, total) in enumerate(zip(arguments.images, totals, strict=True))
    ]
    if arguments.json:
        facts = {"prompt": arguments.prompt, "versions": mix.versions, "problems": scores.problems}
        print(json.dumps({**facts, "images": rows}, indent=2))
        return
    _print_table(["image", "total", *scores.parts], rows)


def _print_table(names: list[str], rows: list[dict]) -> None:
    images, widths = [shown(row["image"]) for row in rows], [max(8, len(name)) for name in names[1:]]
    wide = max(map(len, images))
    print("  ".join([names[0].ljust(wide), *map(str.rjust, names[1:], widths)]))
    for image, row in zip(images, rows, strict=True):
        cells = ["-" if one is None else f"{one:.3f}" for one in (row["total"], *row["rewards"].values())]
        print("  ".join([image.ljust(wide), *map(str.rjust, cells, widths)]))
