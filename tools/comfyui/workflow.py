"""Workflow files as people save them, turned into prompts a server takes."""

import json
from pathlib import Path

from tools.environment import TOP

WORKFLOWS = TOP / "workflows"
API = WORKFLOWS / "api"  # ComfyUI's template browser lists the folder above, and none in it


def load_workflow(name: str) -> dict:
    """`workflows/<name>.json`, as the frontend saved it."""
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def load_api(name: str) -> dict:
    """`workflows/api/<name>.json`, as the frontend exported it."""
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """The API-format prompt of a UI-format workflow, by the same code `comfy run --workflow` uses."""
    from comfy_cli.workflow_to_api import convert_ui_to_api

    return convert_ui_to_api(workflow, object_info)


def node_of(prompt: dict, class_type: str) -> tuple[str, dict]:
    """The id and the inputs of the one node of a class; the inputs may be changed in place before queueing."""
    found = [(id, node["inputs"]) for id, node in prompt.items() if node["class_type"] == class_type]
    if len(found) != 1:
        classes = sorted(node["class_type"] for node in prompt.values())
        raise LookupError(f"{len(found)} nodes of class {class_type}, expected one among {classes}")
    return found[0]


def save_workflow(path: Path, workflow: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
