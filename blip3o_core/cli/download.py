"""`blip3o download`: fetch a published checkpoint, after asking."""

import argparse
import sys
from pathlib import Path

from ..errors import Blip3oError
from ..files import size_in_words
from .common import report, say
from .parser import UsageError, program


def add_command(commands) -> None:
    parser = commands.add_parser(
        "download",
        help="download a published checkpoint",
        description="Show what a download is, ask, then fetch it. An interrupted download resumes when the same "
        "command runs again; every file is compared with the server's checksum.",
        example="blip3o download BLIP3o-NEXT-SFT-3B",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a checkpoint of --list")
    parser.add_argument("--list", action="store_true", help="list what can be downloaded; asks no server")
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="where to make the folder NAME (default: ComfyUI's models/blip3o)"
    )
    parser.add_argument("--dry-run", action="store_true", help="ask the server and show everything, fetch nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask before the download")
    parser.add_argument("--endpoint", metavar="URL", help="a mirror (default: HF_ENDPOINT, else huggingface.co)")
    parser.set_defaults(run=run, parser=parser, cancelled="Cancelled. Run the same command again to resume.")


def run(arguments: argparse.Namespace) -> None:
    from ..download.place import models_folder
    from ..download.published import find_published

    if arguments.list:
        return _list()
    if arguments.name is None:
        raise UsageError(f"NAME is missing. '{program()} download --list' lists what can be downloaded.")
    published = find_published(arguments.name)
    from ..download import hub

    remote = hub.ask(published, arguments.endpoint)
    folder = (arguments.to.expanduser() if arguments.to else models_folder()) / published.name
    files = hub.missing(remote, folder)
    size = sum(file.size for file in files)
    for label, value in (
        ("repository", f"{published.repository} at {remote.endpoint}, commit {remote.commit[:12]}"),
        ("does", published.does),
        ("licence", remote.licence or published.licence),
        ("download", f"{size_in_words(size)} in {len(files)} files, of {size_in_words(remote.nbytes)}"),
        ("folder", folder.absolute()),
    ):
        say(f"{label:12}{value}")
    if arguments.dry_run:
        return None
    if files:
        hub.check_space(folder, files)
        _ask(arguments.yes)
        hub.fetch(remote, folder, files, say)
    say("Complete. In ComfyUI, press R to refresh the lists, and choose it in BLIP3o Loader.")
    report(folder)
    return None


def _list() -> None:
    from ..download.published import PUBLISHED

    for each in PUBLISHED:
        size = "size not known" if each.gigabytes is None else f"about {each.gigabytes} GB"
        print(f"{each.name:28} {size:15} {each.does}; licence: {each.licence}")
    say("Sizes are computed from the number of parameters. The exact size is shown before a download.")


def _ask(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Blip3oError(
            "Nothing was downloaded: there is no terminal here to ask at. Add --yes to download without a question."
        )
    if input("Download? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Blip3oError("Nothing was downloaded. Answer y to download.")
