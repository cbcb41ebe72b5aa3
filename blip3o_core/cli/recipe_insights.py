"""`blip3o recipe insights`: what the paper says of the method, as tables of checkpoints of the tiny world."""

import argparse
from pathlib import Path
from typing import Any

from ..files import write_json
from .arguments import add_compute_options, add_diffusion_options, add_sampling_options, positive, whole
from .common import Bar, load_pipeline, needs_extra, open_named, report, sampling_of
from .device import device_name, device_of
from .output import FOLDER
from .parser import UsageError

TEST = "Test"  # its group of options
# Columns of each table, from the checkpoints in this order, and what its title says.
TABLES = {
    "rl": (("before", "after RL"), "Reinforcement learning, by category of prompt"),
    "edits": (("before", "edit-tuned", "after RL"), "Post-training, by kind of edit"),
    "references": (("tokens", "cross", "noise", "both"), "How the diffusion sees references, by kind of edit"),
}
_IMAGES, _EDITS = 1000, 600  # items of a table


def add_command(recipes) -> None:
    parser = recipes.add_parser(
        "insights",
        help="compare checkpoints, and the ways in which references are used",
        description="Make a table of checkpoints on the same held-back prompts or edits, with the same seeds: means, "
        "and differences with their standard errors and 95 % intervals. rl compares two checkpoints on prompts, edits "
        "compares three on edits, and references compares the four reference modes of one checkpoint. The same command "
        "resumes an interrupted run.",
        needs="insights needs a table and its checkpoints: rl BEFORE AFTER, edits BEFORE TUNED AFTER_RL, or references "
        "CHECKPOINT.",
        example="blip3o recipe insights references tiny --count 60 --out output/references",
    )
    parser.add_argument("table", choices=tuple(TABLES), metavar="TABLE", help=f"one of {', '.join(TABLES)}")
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="checkpoint folders in the order of the columns, or tiny for the bundled model",
    )
    group = parser.group(TEST)
    group.add_argument(
        "--out", type=Path, metavar="DIR", help=f"folder of the results (default: {FOLDER.as_posix()}/insights/TABLE)"
    )
    group.add_argument(
        "--count",
        type=whole(8, 2**20),
        metavar="N",
        help=f"prompts or edits, the same number of each category (default: {_IMAGES} prompts, {_EDITS} edits)",
    )
    group.add_argument(
        "--seeds",
        type=whole(1, 1000),
        metavar="N",
        help="runs over all of them, with different seeds (default: 3 with prompts, 1 with edits)",
    )
    group.add_argument(
        "--any-phrasing", action="store_true", help="use all phrasings of prompts, not only the plain one"
    )
    group.add_argument("--batch", type=positive, default=50, help="images made together (default: %(default)s)")
    add_sampling_options(parser)
    add_diffusion_options(parser, 20)
    add_compute_options(parser, dtype="fp32")
    parser.set_defaults(
        run=run, parser=parser, cancelled="Cancelled. What was judged is kept. Run the same command again to continue."
    )


def run(arguments: argparse.Namespace) -> None:
    with needs_extra("train"):
        from ..evaluation import insights
        from ..evaluation.insights_report import markdown
        from ..evaluation.results import write_text
    from .versions import version_numbers

    names, title = TABLES[arguments.table]
    wanted = 1 if arguments.table == "references" else len(names)
    if len(arguments.checkpoints) != wanted:
        raise UsageError(
            f"{arguments.table} compares {wanted} checkpoint{'s' * (wanted > 1)}, and {len(arguments.checkpoints)} "
            f"{'is' if len(arguments.checkpoints) == 1 else 'are'} given. {arguments.parser.needs}"
        )
    if arguments.any_phrasing and arguments.table != "rl":
        raise UsageError("--any-phrasing is of prompts, and edits use all phrasings already. Leave it out.")
    opened = [open_named(name) for name in arguments.checkpoints]
    questions = _questions(arguments, _edition(opened))
    device = device_of(arguments.device)
    folder = arguments.out or FOLDER / "insights" / arguments.table
    facts = {"numbers": {"dtype": arguments.dtype, "device": device.type}, "versions": version_numbers()}
    with Bar(arguments.table) as bar:
        found = insights.compare(
            arguments.table,
            _columns(arguments.table, opened),
            questions,
            folder,
            lambda checkpoint: load_pipeline(arguments, checkpoint, device, arguments.batch),
            facts,
            lambda column, done, total: bar(done, total, None),
        )
    results = {**found, "machine": _machine(device)}
    text = markdown(results, title)
    write_text(folder / "results.md", text)
    write_json(folder / "results.json", results)
    print(text, end="", flush=True)
    report(folder / "results.md")


def _edition(opened: list) -> int:
    from ..tiny.evaluation import edition_of

    editions = [edition_of(one) for one in opened]
    if len(set(editions)) > 1:
        raise UsageError(
            f"The checkpoints are of different editions of the world: {', '.join(map(str, editions))}. Compare "
            "checkpoints of one edition."
        )
    return editions[0]


def _columns(table: str, opened: list) -> list:
    """Reference modes are compared with "tokens", checkpoints with the one before."""
    from ..evaluation.insights import Column

    names, _ = TABLES[table]
    if table == "references":
        return [Column(name, opened[0], name, names[0] if name != names[0] else None) for name in names]
    mode = None if table == "rl" else "auto"
    before = [None, *names]
    return [Column(name, one, mode, last) for name, one, last in zip(names, opened, before, strict=False)]


def _questions(arguments: argparse.Namespace, edition: int):
    from ..evaluation.insights import Edits, Images
    from ..tiny import edit_evaluation, evaluation

    own: dict[str, Any] = {name: getattr(arguments, name) for name in ("steps", "guidance", "batch")}
    own |= {"sampling": sampling_of(arguments), "edition": edition}
    if arguments.table == "rl":
        own |= {"count": arguments.count or _IMAGES, "seeds": arguments.seeds or 3}
        return Images(evaluation.Settings(**own, any_phrasing=arguments.any_phrasing))
    return Edits(edit_evaluation.Settings(**own, count=arguments.count or _EDITS), arguments.seeds or 1)


def _machine(device) -> dict[str, Any]:
    from ..tiny.recipe.quick import machine

    return machine() | ({"device": device_name(device)} if device.type != "cpu" else {})
