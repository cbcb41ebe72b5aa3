"""A table of images to make (CSV) and a workflow in API format -> a prompt for each row.

A column is an input of the workflow: `prompt`, or `6.prompt` (the node's number, title or type) where several nodes
have an input of that name. `name` names the image. An empty cell keeps the workflow's own value.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, did_you_mean, shown
from ..files import read_bytes, read_csv, read_json
from .queue_server import SUBFOLDER

MAX_ROWS = 100_000
UPLOADED = {("LoadImage", "image"), ("LoadImageMask", "image")}  # inputs that name a file of the server


@dataclass(frozen=True)
class Row:
    """`uploads`: names on the server, and the files that belong there."""

    number: int
    name: str
    prompt: dict
    uploads: dict[str, Path]


def read_workflow(path: Path) -> dict:
    """A workflow in API format: nodes by id, each with `class_type` and `inputs`."""
    content = read_json(path, "Export it again from ComfyUI.")
    if isinstance(content.get("nodes"), list):
        raise Blip3oError(
            f"{path} is a workflow as ComfyUI's page saves it. This command needs the API format: in ComfyUI, open the "
            "menu File and choose Export (API)."
        )
    for node, facts in content.items():
        known = isinstance(facts, dict) and isinstance(facts.get("class_type"), str)
        if not known or not isinstance(facts.get("inputs"), dict):
            raise Blip3oError(
                f"{path} is not a workflow in API format: {shown(node)} is {shown(facts)}, not a node. In ComfyUI, "
                "open the menu File and choose Export (API)."
            )
    return content


def read_rows(table: Path, workflow: dict) -> list[Row]:
    """Raises Blip3oError, which names line and column, before anything is queued."""
    (_, columns), *rows = read_csv(table) or [(1, [])]
    if not rows or len(rows) > MAX_ROWS:
        raise Blip3oError(
            f"{table} has {len(rows):,} images. Write the names of inputs in the first line, and an image in each "
            f"following one, {MAX_ROWS:,} at most."
        )
    places = [None if column.strip() == "name" else _place(column.strip(), workflow) for column in columns]
    made, taken = [], {}
    for number, (line, cells) in enumerate(rows):
        where = f"{table}, line {line}"
        if len(cells) != len(columns):
            raise Blip3oError(
                f"{where} has {len(cells)} cells for {len(columns)} columns. Put texts with commas in quotes."
            )
        filled = [each for each in zip(columns, places, map(str.strip, cells), strict=True) if each[2]]
        row = _row(number, filled, workflow, where, table.parent)
        if row.name.lower() in taken:
            raise Blip3oError(f"{where}: the name {shown(row.name)} stands in line {taken[row.name.lower()]}, too.")
        taken[row.name.lower()] = line
        made.append(row)
    return made


def _place(column: str, workflow: dict) -> tuple[str, str]:
    """(node id, input) of a column."""
    node, _, name = column.rpartition(".") if _has_node(column, workflow) else ("", "", column)
    found = [
        (id, name)
        for id, facts in workflow.items()
        if node in ("", id, facts["class_type"], (facts.get("_meta") or {}).get("title"))
        and name in facts["inputs"]
        and not isinstance(facts["inputs"][name], list)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        known = sorted({each for facts in workflow.values() for each in facts["inputs"]})
        hint = did_you_mean(name, known) or f"Its inputs: {', '.join(known)}."
        raise Blip3oError(f"The workflow has no input {shown(column)!r} to fill. {hint}")
    choices = " or ".join(f"{id}.{name}" for id, name in found)
    raise Blip3oError(f"Several nodes have an input {shown(column)!r}. Write {choices} in the first line.")


def _has_node(column: str, workflow: dict) -> bool:
    """Whether a column names its node: an input's own name may have a dot, too, as sampling.top_k."""
    return not any(column in facts["inputs"] for facts in workflow.values()) and "." in column


def _row(number: int, filled: list[tuple], workflow: dict, where: str, folder: Path) -> Row:
    """`filled`: (column, place, text) of the cells that are not empty."""
    prompt, uploads, name = json.loads(json.dumps(workflow)), {}, f"{number:05d}"
    for column, place, text in filled:
        if place is None:
            name = _file_name(text, where)
            continue
        id, slot = place
        if (workflow[id]["class_type"], slot) in UPLOADED:
            file = folder / Path(text).expanduser()
            data = read_bytes(file, f"It stands in {where}, column {column}.")
            value: Any = f"{SUBFOLDER}/{hashlib.sha256(data).hexdigest()[:24]}{file.suffix.lower()}"
            uploads[value] = file
        else:
            value = _value(text, workflow[id]["inputs"][slot], f"{where}, column {column}")
        prompt[id]["inputs"][slot] = value
    return Row(number, name, prompt, uploads)


def _file_name(text: str, where: str) -> str:
    if not re.fullmatch(r"[\w(][\w ().+-]{0,120}", text) or text.endswith((" ", ".")):
        raise Blip3oError(f"{where}: {shown(text)!r} cannot name a file. Use letters, digits, spaces, - and _.")
    return text.removesuffix(".png")


def _value(text: str, own: Any, where: str) -> Any:
    """A cell as the kind of value that the workflow has there."""
    if isinstance(own, str):
        return text
    try:
        if isinstance(own, bool):
            return {"true": True, "false": False}[text.lower()]
        return int(text) if isinstance(own, int) else float(text)
    except (KeyError, ValueError):
        needed = "true or false" if isinstance(own, bool) else "a whole number" if isinstance(own, int) else "a number"
        raise Blip3oError(f"{where}: {shown(text)!r} must be {needed}, as in the workflow.") from None
