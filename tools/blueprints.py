"""`make workflows`, second part: writes `subgraphs/*.json`, ready-made nodes that ComfyUI calls blueprints.

Each is a graph with one node, a subgraph, as ComfyUI's frontend publishes it. Double-click the canvas and type "text to
image" to find it.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.comfyui.frontend import TWO_FRAMES, Frontend, open_frontend
from tools.comfyui.server import PACK_FOLDER, Server
from tools.comfyui.workflow import save_workflow
from tools.environment import TOP
from tools.samples.parts import EDIT, SIDE, START, Sample, add_chain, encode, load
from tools.workflows import LOADED, VERSION, flat, settled

SUBGRAPHS = TOP / "subgraphs"
WIDTH = 400  # of the one node, in canvas units
# Everything but the nodes in `outside` becomes one node; they are what gave it a link in and a link out.
PUBLISH = """([name, outside, widgets, pack, width, columns]) => {
    const graph = window.app.graph, away = outside.map(id => graph.getNodeById(id));
    const inside = graph.nodes.filter(node => !away.includes(node));
    columns.forEach((ids, k) => {
        let top = 0;
        for (const id of ids) {
            const one = graph.getNodeById(id);
            one.size = [width, one.computeSize()[1]];
            one.pos = [k * (width + 60), top];
            top += one.size[1] + 60;
        }
    });
    for (const node of inside) if (node.type.startsWith("BLIP3o")) Object.assign(node.properties, pack);
    const {subgraph, node} = graph.convertToSubgraph(new Set(inside));
    subgraph.name = node.title = name;
    for (const [id, widget] of widgets) {
        const inner = subgraph.getNodeById(id), input = inner.inputs.find(one => one.name === widget);
        subgraph.addInput(widget, String(input.type)).connect(input, inner);
    }
    // The frontend itself offers a seed, of which the link has just moved.
    for (const input of [...subgraph.inputs]) if (!input.linkIds.length) subgraph.removeInput(input);
    for (const input of subgraph.inputs) if (input.type === "IMAGE") subgraph.renameInput(input, "image");
    for (const output of subgraph.outputs) subgraph.renameOutput(output, "image");
    for (const one of away) graph.remove(one);
    node.pos = [0, 0];
    node.size = [width, node.computeSize()[1]];
}"""


@dataclass(frozen=True)
class Blueprint:
    """`outside`: nodes that only connect what becomes the one node; `widgets`: what it shows, as (id, name)."""

    name: str
    category: str
    description: str
    sample: Sample
    outside: list[str]
    widgets: list[tuple[str, str]]
    columns: list[list[str]]


def text_to_image() -> Blueprint:
    sample = Sample("Text to Image (BLIP3o-NEXT)")
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    end = sample.add("PreviewImage", images=[chain.decode, 0])
    return Blueprint(
        sample.name, "Image generation and editing/Text to image",
        f"Makes an image from a prompt with BLIP3o-NEXT. The bundled tiny model makes {SIDE} x {SIDE} pixels in 20 "
        "steps; for a published checkpoint set width and height to 1024 and 30 steps.",
        sample, [end],
        [(chain.generator, "prompt"), (loader, "checkpoint"), (chain.empty, "width"), (chain.empty, "height"),
         (chain.generator, "seed"), (chain.sampler, "noise_seed"), (chain.sampler, "steps"),
         (chain.sampler, "guidance")],
        [[loader, chain.empty], [chain.generator], [chain.conditioner, chain.sampler], [chain.decode]],
    )  # fmt: skip


def image_edit() -> Blueprint:
    sample = Sample("Image Edit (BLIP3o-NEXT)")
    loader = load(sample)
    image = sample.add("EmptyImage", width=SIDE, height=SIDE, batch_size=1, color=0)
    encoder = encode(sample, loader, image)
    chain = add_chain(sample, loader, EDIT, encoder)
    end = sample.add("PreviewImage", images=[chain.decode, 0])
    return Blueprint(
        sample.name, "Image generation and editing/Edit image",
        "Changes an image as a sentence says, with BLIP3o-NEXT. The bundled tiny model knows only coloured shapes and "
        "short words; for photographs choose BLIP3o-NEXT-edit-VAE and 30 steps.",
        sample, [image, end],
        [(chain.generator, "prompt"), (loader, "checkpoint"), (chain.generator, "seed"),
         (chain.sampler, "noise_seed"), (chain.sampler, "steps"), (chain.sampler, "guidance")],
        [[loader], [encoder], [chain.generator], [chain.conditioner, chain.sampler], [chain.decode]],
    )  # fmt: skip


BLUEPRINTS = [text_to_image(), image_edit()]


def published(frontend: Frontend, blueprint: Blueprint) -> dict:
    """The file of a blueprint. RuntimeError if the frontend lost a node or a wire on the way."""
    sample = blueprint.sample
    frontend.load_prompt(sample.prompt, sample.name)
    frontend.page.wait_for_function(LOADED, arg=list(sample.prompt))  # a page that starts loads a graph of its own
    pack = {"cnr_id": PACK_FOLDER, "ver": VERSION}
    frontend.page.evaluate(
        PUBLISH, [blueprint.name, blueprint.outside, blueprint.widgets, pack, WIDTH, blueprint.columns]
    )
    frontend.page.evaluate(TWO_FRAMES)
    workflow, prompt = frontend.save()
    kept = flat(prompt)
    for id, node in sample.prompt.items():
        wanted = {
            name: value
            for name, value in node["inputs"].items()
            if not (isinstance(value, list) and value[0] in blueprint.outside)
        }
        if id not in blueprint.outside and {name: kept[id]["inputs"].get(name) for name in wanted} != wanted:
            raise RuntimeError(f"the frontend changed node {id} of {blueprint.name}: it has {kept[id]}")
    [part] = workflow["definitions"]["subgraphs"]
    for node in part["nodes"]:  # a seed that changes by itself writes all tokens again
        if values := node.get("widgets_values"):
            node["widgets_values"] = ["fixed" if value == "randomize" else value for value in values]
    part |= {"category": blueprint.category, "description": blueprint.description}
    workflow["extra"] = {}
    return settled(workflow, blueprint.name)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server:
        for blueprint in BLUEPRINTS:
            with open_frontend(server.address) as frontend:
                save_workflow(SUBGRAPHS / f"{blueprint.name}.json", published(frontend, blueprint))
                print(f"subgraphs/{blueprint.name}.json")


if __name__ == "__main__":
    main()
