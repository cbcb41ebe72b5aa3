"""`blip3o queue`: a table of prompts and edits through a ComfyUI server, one image or several for each row."""

import argparse
import contextlib
from collections import deque
from pathlib import Path

from ..errors import Blip3oError
from ..files import atomic_write, check_writable, naming_failures
from .common import report, say
from .queue_server import RowFailed, Server
from .queue_table import Row, read_rows, read_workflow

AHEAD = 2  # prompts on the server, so that it does not wait for the next one


def add_command(commands) -> None:
    parser = commands.add_parser(
        "queue",
        help="make a table of images through a ComfyUI server",
        description="Run a workflow on a ComfyUI server once for each row of a CSV file, and save the images. Columns "
        "are inputs of the workflow, such as prompt, seed or image; a column 'name' names the images. A run that is "
        "cut off resumes: rows whose images exist are skipped.",
        needs="queue needs a table, a workflow and a folder: TABLE.csv --workflow FILE.json --out DIR.",
        example="blip3o queue prompts.csv --workflow text_to_image_api.json --out images",
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="a CSV file; its first line names inputs")
    parser.add_argument(
        "--workflow", type=Path, required=True, metavar="FILE", help="in API format: ComfyUI's menu File, Export (API)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder for the images")
    parser.add_argument(
        "--server", default="http://127.0.0.1:8188", metavar="URL", help="of ComfyUI (default: %(default)s)"
    )
    parser.set_defaults(
        run=run, parser=parser, cancelled="Cancelled. The server was told, too. Run the same command again to resume."
    )


def run(arguments: argparse.Namespace) -> None:
    server, out = Server(arguments.server), arguments.out
    rows = read_rows(arguments.table, read_workflow(arguments.workflow))
    check_writable([out / "00000.png"])
    left = deque(row for row in rows if not _is_made(out, row))
    if len(left) < len(rows):
        say(f"skipped {len(rows) - len(left)} of {len(rows)}: their images exist, with the same settings")
    total, failed, queued = len(left), 0, deque[tuple[Row, str]]()
    try:
        while left or queued:
            while left and len(queued) < AHEAD:
                failed += _enqueue(server, left.popleft(), queued)
            if queued:
                failed += _finish(server, out, *queued[0])
                queued.popleft()
    except BaseException:
        with contextlib.suppress(Blip3oError):  # it does not answer, and what ended the run is to be said
            server.cancel([prompt_id for _, prompt_id in queued])
        raise
    if failed:
        raise Blip3oError(
            f"{failed} of {total} rows failed, as said above; the others are made. Correct them, and run the same "
            "command again: what is made is skipped."
        )


def _enqueue(server: Server, row: Row, queued: deque) -> bool:
    """Whether the server refused the row."""
    for name, file in row.uploads.items():
        server.upload(Path(name).name, file.read_bytes())
    try:
        queued.append((row, server.queue(row.prompt)))
    except RowFailed as error:
        say(f"{row.name}: {error}")
        return True
    return False


def _finish(server: Server, out: Path, row: Row, prompt_id: str) -> bool:
    """Wait and save; whether the row failed."""
    try:
        images = server.wait(prompt_id)
    except RowFailed as error:
        say(f"{row.name}: {error}")
        return True
    _save(out, row, [server.fetch(image) for image in images])
    return False


def _paths(out: Path, row: Row, count: int) -> list[Path]:
    return [out / f"{row.name}{f'-{k}' if k > 1 else ''}.png" for k in range(1, count + 1)]


def _save(out: Path, row: Row, images: list[bytes]) -> None:
    """The first image last: it says that the row is made."""
    for path, data in reversed(list(zip(_paths(out, row, len(images)), images, strict=True))):
        with naming_failures(path), atomic_write(path) as scratch:
            scratch.write_bytes(data)
        report(path)


def _is_made(out: Path, row: Row) -> bool:
    """Whether the row's first image exists, undamaged, and says that it was made by exactly this prompt."""
    from ..files import parse_json
    from ..images.png import text_of

    path = out / f"{row.name}.png"
    try:
        stored = text_of(path, "prompt")
        return stored is not None and _asked(parse_json(stored, str(path), "")) == _asked(row.prompt)
    except (Blip3oError, AttributeError):
        return False


def _asked(prompt: dict) -> dict:
    """What decides the images; the server adds notes of its own to a prompt's nodes."""
    return {id: (node.get("class_type"), node.get("inputs")) for id, node in prompt.items()}
