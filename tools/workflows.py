"""`make workflows`: writes `workflows/*.json` through ComfyUI's own frontend, after a node's widgets have changed.

`workflows/api/*.json` are the same as its Export (API) writes them, for scripts and `blip3o queue`.

The graphs are in `samples/`; the frontend turns each into the file a person would save. What the bundled model draws
with a sample becomes its thumbnail among ComfyUI's templates.
"""

import argparse
import io
import json
import tempfile
import uuid
from pathlib import Path

import tomllib
from PIL import Image

from tools.comfyui.client import Client
from tools.comfyui.frontend import TWO_FRAMES, Frontend, open_frontend
from tools.comfyui.server import PACK_FOLDER, Server
from tools.comfyui.workflow import API, WORKFLOWS, save_workflow, to_prompt
from tools.environment import TOP
from tools.samples import SAMPLES
from tools.samples.parts import Sample
from tools.schemas import LISTED

VERSION = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
GAP = 60  # between columns, in canvas units
THUMBNAIL = 400  # px of the longer side

LOADED = "ids => ids.every(id => window.app.graph.getNodeById(id))"
# Nodes that become one; widgets that stay visible on it are connected to its inputs, as by hand.
FOLD = """([title, ids, inputs, outputs]) => {
    const graph = window.app.graph;
    graph.id = crypto.randomUUID();  // What the page remembers of a subgraph, it finds by this id and the node's
    const {subgraph, node} = graph.convertToSubgraph(new Set(ids.map(id => graph.getNodeById(id))));
    subgraph.name = node.title = title;
    for (const [id, name] of inputs) {
        const inner = subgraph.getNodeById(id), input = inner.inputs.find(one => one.name === name);
        subgraph.addInput(name, "STRING").connect(input, inner);
    }
    for (const [k, output] of subgraph.outputs.entries()) if (outputs[k]) subgraph.renameOutput(output, outputs[k]);
    return String(node.id);
}"""
# Folding pulls links out of sockets that grow, and those close up at once.
JOIN = """([folded, inner, slot, id, name]) => {
    const graph = window.app.graph, node = graph.getNodeById(folded), target = graph.getNodeById(id);
    const from = node.subgraph.outputs.findIndex(output =>
        output.getLinks().some(link => String(link.origin_id) === inner && link.origin_slot === slot));
    node.connect(from, target, target.inputs.findIndex(input => input.name === name));
}"""
# Members of a group stand below each other, and so do the groups of a column.
ARRANGE = """([columns, note, noteHeight, heights, room, gap, pack]) => {
    const graph = window.app.graph;
    const fix = nodes => { for (const node of nodes) {
        if (node.type.startsWith("BLIP3o")) Object.assign(node.properties, pack);
        if (node.subgraph) fix(node.subgraph.nodes);
    }};
    fix(graph.nodes);
    let left = 0;
    for (const {width, groups} of columns) {
        let top = 0;
        for (const [title, members] of groups) {
            const begin = top;
            if (members[0] !== "note") top += 80;
            for (const id of members) {
                let node = graph.getNodeById(id);
                if (id === "note") {
                    node = window.LiteGraph.createNode("MarkdownNote");
                    graph.add(node);
                    node.title = "Read me";
                    node.widgets[0].value = note;
                    heights[id] = noteHeight;
                    top += 30;
                }
                node.pos = [left, top];
                node.size = [width, Math.max(heights[id] ?? 0, node.computeSize()[1])];
                top += Math.max(room[id] ?? 0, node.size[1]) + 46;
            }
            if (members[0] !== "note") {
                const group = new window.LiteGraph.LGraphGroup(title);
                group.pos = [left - 15, begin];
                group.size = [width + 30, top - begin - 30];
                graph.add(group);
            }
            top += members[0] === "note" ? -30 : -10;
        }
        left += width + gap;
    }
}"""

# Where a link decides, a widget shows the first file on this machine, or the seed of the graph that was open before.
FORGET = """(lists) => {
    for (const node of window.app.graph._nodes) {
        for (const {link, widget} of node.inputs ?? []) {
            if (link == null || !widget) continue;
            const shown = node.widgets.find(each => each.name === widget.name);
            if (lists.includes(widget.name)) shown.value = "";
            if (widget.name.endsWith("seed")) shown.value = 0;
        }
    }
}"""


def flat(prompt: dict[str, dict]) -> dict[str, dict]:
    """An API-format prompt without the ids of subgraphs: "21:3" is node 3."""

    def plain(id: str) -> str:
        return id.rsplit(":", 1)[-1]

    def input_of(value):
        return [plain(value[0]), value[1]] if isinstance(value, list) and len(value) == 2 else value

    return {
        plain(id): {**node, "inputs": {name: input_of(value) for name, value in node["inputs"].items()}}
        for id, node in prompt.items()
    }


def join(frontend: Frontend, sample: Sample, folded: dict[str, str]) -> None:
    """Connect the sockets that grow to what was folded; `folded`: ids of subgraphs by title."""
    home = {id: folded[title] for title, part in sample.subgraphs.items() for id in part.ids if id}
    for id, node in sample.prompt.items():
        for name, value in node["inputs"].items():
            if "." in name and isinstance(value, list) and value[0] in home:
                frontend.page.evaluate(JOIN, [home[value[0]], *value, id, name])
                frontend.page.evaluate(TWO_FRAMES)


def made(frontend: Frontend, sample: Sample) -> tuple[dict, dict]:
    """A sample arranged, as (UI-format workflow, API-format prompt); it stays open in the page."""
    frontend.load_prompt(sample.prompt, sample.name)
    frontend.page.wait_for_function(LOADED, arg=list(sample.prompt))  # a page that starts loads a graph of its own
    folded = {}
    for title, part in sample.subgraphs.items():
        ids = [id for id in part.ids if id]
        folded[title] = frontend.page.evaluate(FOLD, [title, ids, part.inputs, part.outputs])
    join(frontend, sample, folded)
    columns = [
        {
            "width": column.width,
            "groups": [[title, [folded.get(id, id) for id in ids]] for title, ids in column.groups.items()],
        }
        for column in sample.columns
    ]
    heights, room = (
        {folded.get(id, id): height for id, height in part.items()} for part in (sample.heights, sample.room)
    )
    pack = {"cnr_id": PACK_FOLDER, "ver": VERSION}
    frontend.page.evaluate(ARRANGE, [columns, sample.note, sample.note_height, heights, room, GAP, pack])
    frontend.page.evaluate(FORGET, [name for _, name in sorted(LISTED)])
    workflow, prompt = frontend.save()
    kept = flat(prompt)
    if kept.keys() != sample.prompt.keys():
        raise RuntimeError(f"the frontend dropped nodes of {sample.name}: it kept {sorted(kept)}")
    for id, node in sample.prompt.items():
        # A link that the frontend has no socket for disappears without a word.
        if lost := {name: value for name, value in node["inputs"].items() if kept[id]["inputs"].get(name) != value}:
            raise RuntimeError(f"the frontend changed {lost} on node {id} of {sample.name}: it has {kept[id]}")
    saved = [id for id, node in sample.prompt.items() if node["class_type"] == "SaveImage"]
    # App mode: these widgets, a button and the image. The file opens as a graph.
    inputs = [[folded.get(id, id), widget] for id, widget in sample.inputs]
    for part in [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]:
        for node in part["nodes"]:  # a seed that changes by itself writes all tokens again
            if values := node.get("widgets_values"):
                node["widgets_values"] = ["fixed" if value == "randomize" else value for value in values]
    workflow["extra"] = {"linearMode": False, "linearData": {"inputs": inputs, "outputs": saved}}
    return settled(workflow, sample.name), prompt


def settled(workflow: dict, name: str) -> dict:
    """With ids that are not new ones with every writing."""
    text = json.dumps(workflow | {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, name))})
    for part in workflow.get("definitions", {}).get("subgraphs", []):
        text = text.replace(part["id"], str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{part['name']}")))
        for k, slot in enumerate([*part["inputs"], *part["outputs"]]):
            text = text.replace(slot["id"], str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{part['name']}/{k}")))
    return json.loads(text)


def side_by_side(before: list[Image.Image], after: list[Image.Image]) -> Image.Image:
    """All at one height; many of `before` stand in two rows."""
    rows = 2 if len(before) > 2 else 1
    columns = [before[k : k + rows] for k in range(0, len(before), rows)] + [[image] for image in after]
    high, left = after[0].height, 0
    result = Image.new("RGB", (high * 10, high))
    for column in columns:
        each = high // len(column)
        width = column[0].width * each // column[0].height
        for k, image in enumerate(column):
            result.paste(image.resize((width, each)), (left, k * each))
        left += width
    return result.crop((0, 0, left, high))


def write_thumbnail(client: Client, sample: Sample, workflow: dict, file: Path) -> None:
    """What the workflow saves, as small as the template browser shows it, and before it what it compares that with."""
    prompt = to_prompt(workflow, client.object_info())
    for id, values in sample.answers.items():
        prompt[id]["inputs"] |= values
    result = client.run(prompt, timeout=600)
    if result.status != "success":
        raise RuntimeError(f"{file.stem} ended with {result.status}: {result.error}")
    saved = [image for image in result.images if image["type"] == "output"]  # the others are previews
    shown = result.outputs[sample.compared] if sample.compared else {}
    before = shown.get("images") or shown.get("blip3o_drafts") or []
    opened = [Image.open(io.BytesIO(client.view(**each))).convert("RGB") for each in (*before, *saved)]
    small = side_by_side(opened[: len(before)], opened[len(before) :])
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(file, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.workflows", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="write these samples only")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server, server.client() as client:
        for sample in (one for one in SAMPLES if not names or one.name in names):
            # A page each: widgets that a sample leaves out would keep the values of the one before.
            with open_frontend(server.address) as frontend:
                workflow, prompt = made(frontend, sample)
            save_workflow(WORKFLOWS / f"{sample.name}.json", workflow)
            save_workflow(API / f"{sample.name}.json", prompt)
            print(f"workflows/{sample.name}.json")
            write_thumbnail(client, sample, workflow, WORKFLOWS / f"{sample.name}.jpg")
            print(f"workflows/{sample.name}.jpg")


if __name__ == "__main__":
    main()
