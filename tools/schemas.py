"""Files that follow from the node schemas, read from a real server's /object_info.

    python -m tools.schemas locales    locales/en/nodeDefs.json: every name and tooltip, for translators;
                                       then says which texts of the other languages are left to translate
    python -m tools.schemas contract   tests/host/node_contract.json: what saved workflows rely on

The contract is a promise: a workflow saved with one release opens in every later one. A test compares it with the
server, so it changes only when somebody runs the second command and commits the difference.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tools import translations
from tools.comfyui.server import Server
from tools.environment import TOP

LOCALES = TOP / "locales" / "en" / "nodeDefs.json"
CONTRACT = TOP / "tests" / "host" / "node_contract.json"
PREFIX = "BLIP3o"  # of our node ids
# Combos that list what lies in the model folder: their options differ from machine to machine.
LISTED = {
    ("BLIP3oLoader", "checkpoint"),
    ("BLIP3oLoader", "diffusion_folder"),
    ("BLIP3oImageTokenizerLoader", "file"),
    ("BLIP3oLoraLoader", "lora_name"),
    ("BLIP3oLoadTokens", "file"),
    ("BLIP3oLoadConditioning", "file"),
    ("BLIP3oPromptList", "file"),
    ("BLIP3oTextToImage", "checkpoint"),
    ("BLIP3oImageEdit", "checkpoint"),
    ("BLIP3oScoreImages", "reward"),
    ("BLIP3oTrainLoRA", "reward"),
    ("BLIP3oCurateImages", "folder"),
}
# Of an input's options, those that decide whether a saved value is still accepted, and how many widgets it has.
KEPT = ("default", "min", "max", "step", "options", "control_after_generate")


def own(object_info: dict) -> dict:
    """Our nodes of a server's /object_info, by id."""
    return {id: info for id, info in sorted(object_info.items()) if id.startswith(PREFIX)}


def inputs_of(info: dict) -> dict[str, list]:
    """An entry's inputs by name, [type, options] each, in the order of their widgets: required ones first."""
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def locales(object_info: dict) -> dict:
    """The names, tooltips and descriptions, as ComfyUI looks them up in `nodeDefs.json`."""
    return {id: _words(info) for id, info in own(object_info).items()}


def _words(info: dict) -> dict:
    inputs = {}
    for name, (_, options) in inputs_of(info).items():
        inputs[name] = {"name": name, "tooltip": options["tooltip"]}
        for inner, (_, more) in _dynamic(options).items():
            inputs[f"{name}_{inner}"] = {"name": inner, "tooltip": more["tooltip"]}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": {str(k): {"name": name, "tooltip": tooltip} for k, (name, tooltip) in enumerate(outputs)},
    }


def _dynamic(options: dict) -> dict[str, list]:
    """The inputs inside the options of a dynamic combo, by name; of any other input none."""
    groups = [one["inputs"].get("required", {}) for one in options.get("options", []) if isinstance(one, dict)]
    return {name: spec for group in groups for name, spec in group.items()}


def contract(object_info: dict) -> str:
    """Node ids, inputs in order, types, values, defaults and outputs as JSON: a line for each input and output."""
    nodes = []
    for id, info in own(object_info).items():
        outputs = zip(info["output_name"], info["output"], strict=True)
        lines = {
            "inputs": [_input(id, name, spec, name in info["input"].get("optional", {}))
                       for name, spec in inputs_of(info).items()],
            "outputs": [{"name": name, "type": type} for name, type in outputs],
        }  # fmt: skip
        parts = [
            f'  "{part}": [\n' + ",\n".join(f"   {json.dumps(one)}" for one in found) + "\n  ]"
            for part, found in lines.items()
        ]
        nodes.append(f' "{id}": {{\n' + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def _input(id: str, name: str, spec: list, optional: bool) -> dict:
    type, options = spec
    entry = {"name": name, "type": type, "optional": optional}
    entry |= {key: options[key] for key in KEPT if options.get(key) is not None}
    if (id, name) in LISTED:
        entry["options"] = "from the model folder"
    if _dynamic(options):
        entry["options"] = {
            one["key"]: [_input(id, inner, more, False) for inner, more in one["inputs"].get("required", {}).items()]
            for one in options["options"]
        }
    if "template" in options:  # a list that grows
        template = options["template"]
        [(_, (kind, _))] = template["input"]["required"].items()
        entry |= {"names": template["names"], "min": template["min"], "of": kind}
    return entry


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.schemas", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", choices=("locales", "contract"))
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server, server.client() as client:
        info = client.object_info()
    if chosen.file == "contract":
        path, text = CONTRACT, contract(info)
    else:
        path, text = LOCALES, json.dumps(locales(info), indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    print(path.relative_to(TOP))
    if chosen.file == "locales":
        print("\n".join(translations.left_to_do()))


if __name__ == "__main__":
    main()
