"""`blip3o curate`: from a pile of images and texts to shards that training streams."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from .arguments import setting
from .common import needs_extra, report, say


def add_command(commands) -> None:
    parser = commands.add_parser(
        "curate",
        help="choose good samples for training and write them as shards",
        description="Measure images with their texts, drop what breaks the limits of a YAML file, near-duplicates and "
        "what the evaluation has, and write the rest as shards for training. A page shows what was kept and dropped, "
        "and why. docs/curation.md lists all settings. The same command resumes an interrupted run, and does again "
        "only what changed settings touch.",
        needs="curate needs a YAML file with the settings.",
        example="blip3o curate curate.yaml keep.min_side=512",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="YAML file with the settings")
    parser.add_argument(
        "overrides",
        type=setting,
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="settings to use in place of the file's",
    )
    cancelled = "Cancelled. What is finished is kept. To continue, run the same command again."
    parser.set_defaults(run=run, parser=parser, cancelled=cancelled)


def run(arguments: argparse.Namespace) -> None:
    with needs_extra("curate"):
        import imagehash  # noqa: F401
        import py3langid  # noqa: F401
        import pyarrow  # noqa: F401

        from ..curation.engine import Watch, curate
        from ..curation.settings import load_curation

    settings = load_curation(arguments.config, arguments.overrides)
    with _Bars() as bars:
        outcome = curate(settings, Watch(say, bars))
    for reason, count in sorted(outcome.reasons.items(), key=lambda one: (one[0] != "kept", -one[1])):
        say(f"{count:>12,}  {reason}")
    report(outcome.work.report)
    report(outcome.work.dropped)
    for line in outcome.data_lines():
        print(line)


class _Bars:
    """A progress bar for each pass, one after the other."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._what = ""
        self._bar: Any = None

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if what != self._what:
            self._stack.close()
            self._what = what
            self._bar = self._stack.enter_context(tqdm(desc=what, total=total, leave=False, file=sys.stderr))
        self._bar.update(done - self._bar.n)
