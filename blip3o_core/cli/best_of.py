"""--best-of: several images of one prompt or edit, of which the one with the highest score is kept."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import whole
from .common import report, say
from .output import save_image
from .parser import Parser, UsageError
from .summary import Summary

if TYPE_CHECKING:
    from ..rewards.interface import Candidates
    from ..rewards.mix import RewardMix

MOST = 1024  # as many rows as tokens are written for at once
# Of the stored settings: what is known only when the images are there.
FOUND = ("seed", "noise_seed", "choice")


def add_best_of_options(parser: Parser) -> None:
    group = parser.group("Best of several")
    group.add_argument(
        "--best-of",
        type=whole(1, MOST),
        default=1,
        metavar="N",
        help="make N images with N seeds and keep the one that --reward scores highest (default: %(default)s)",
    )
    group.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="NAME_OR_FILE.yaml",
        help="what scores the images of --best-of: a built-in reward, such as text, or a YAML file that lists rewards. "
        "Give it again for each reward: the scores add up. docs/best_of.md says more",
    )
    group.add_argument(
        "--keep-all",
        action="store_true",
        help="also keep the other images of --best-of, as NAME.1.png, NAME.2.png, ...",
    )


def check_best_of(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options of --best-of that need each other."""
    if arguments.best_of == 1:
        for option, given in (("--reward", arguments.reward), ("--keep-all", arguments.keep_all)):
            if given:
                raise UsageError(f"{option} changes nothing for a single image. Say how many with --best-of N.")
    elif not arguments.reward:
        raise UsageError(
            f"--best-of is {arguments.best_of}, but nothing says which image is the best. Give --reward NAME, such as "
            "--reward text."
        )


def open_rewards(arguments: argparse.Namespace) -> "RewardMix | None":
    """The rewards of --reward; None without --best-of."""
    if arguments.best_of == 1:
        return None
    from ..rewards.best_of import read_rewards

    return read_rewards(arguments.reward, own_code=True)


def facts_of(arguments: argparse.Namespace, mix: "RewardMix", seeds: Sequence[int], noise_seeds: Sequence[int]) -> dict:
    """What is stored with each image about the choice before it is made."""
    rewards = {part.name: {"version": mix.versions[part.name], "weight": part.weight} for part in mix.parts}
    first = {"images": len(seeds), "first_seed": seeds[0], "first_noise_seed": noise_seeds[0], "rewards": rewards}
    return {"batch": len(seeds), "best_of": first | ({"keep_all": True} if arguments.keep_all else {})}


def names_beside(arguments: argparse.Namespace, path: Path) -> tuple[Path, ...]:
    """Where --keep-all may write the other images of the one at `path`, in the order of their seeds."""
    count = arguments.best_of if arguments.keep_all else 0
    return tuple(path.with_suffix(f".{number}.png") for number in range(1, count + 1))


def save_best(
    arguments: argparse.Namespace,
    mix: "RewardMix",
    path: Path,
    candidates: "Candidates",
    settings: Sequence[dict],
    summary: Summary,
) -> None:
    """Score images, write the best to `path`, and with --keep-all the others beside it."""
    from ..rewards.best_of import choose

    with summary.part("scores"):
        chosen = choose(mix, candidates)
    for problem in chosen.scores.problems:
        say(f"warning: {problem}")
    images, best = candidates.images, chosen.best
    if best is None:
        say(f"warning: no reward scored an image for {path}; the first of {len(images)} images is kept")
        best = 0
    scores = {
        "seeds": [own["seed"] for own in settings],
        "scores": chosen.totals,
        "rewards": chosen.scores.parts,
    }
    others = [place for place in range(len(images)) if arguments.keep_all and place != best]
    # Where the best is there, so are the others; but a number that is still free is known only once it is written.
    order = [best, *others] if getattr(arguments, "numbered", False) else [*others, best]
    for place in order:
        own = {**settings[place], "choice": {"score": chosen.totals[place], **scores}}
        if place == best:
            path = save_image(arguments, path, images[place], own)
            report(path)
        else:
            beside = argparse.Namespace(enlarge=arguments.enlarge)
            report(save_image(beside, names_beside(arguments, path)[place], images[place], own))
    shown = ", ".join("none" if score is None else f"{score:.3g}" for score in chosen.totals)
    say(f"kept image {best + 1} of {len(images)}, seed {settings[best]['seed']}; scores: {shown}")
