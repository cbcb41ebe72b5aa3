"""The ready-made nodes of `subgraphs/`: served by ComfyUI, found in the search of nodes, and they run."""

import json

import pytest

from tests.browser.test_workflows import without_places
from tools.blueprints import BLUEPRINTS, SUBGRAPHS, published
from tools.comfyui.frontend import TWO_FRAMES, Frontend
from tools.comfyui.server import PACK_FOLDER

NAMES = [blueprint.name for blueprint in BLUEPRINTS]
SEARCHED = {"Text to Image (BLIP3o-NEXT)": "text to image", "Image Edit (BLIP3o-NEXT)": "image edit"}
WIRE = """() => {
    const graph = window.app.graph, [node] = graph.nodes;
    const add = type => { const one = window.LiteGraph.createNode(type); graph.add(one); return one; };
    node.connect(0, add("SaveImage"), 0);
    for (const [k, input] of node.inputs.entries()) if (input.type === "IMAGE") {
        const image = add("EmptyImage");
        for (const widget of image.widgets) if (["width", "height"].includes(widget.name)) widget.value = 64;
        image.connect(0, node, k);
    }
}"""


@pytest.mark.long
@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=NAMES)
def test_the_file_is_what_the_generator_writes(server, frontend, blueprint):
    """Catches a file left behind when a node got another socket or widget."""
    other = frontend.page.context.browser.new_page()
    try:
        again = published(Frontend(other, f"http://{server.address}"), blueprint)
    finally:
        other.close()
    kept = json.loads((SUBGRAPHS / f"{blueprint.name}.json").read_text(encoding="utf-8"))
    assert without_places(again) == without_places(kept), "run `make workflows`"


def test_comfyui_serves_every_file(client):
    """Catches a folder that ComfyUI does not look into, and a file that nothing writes anew."""
    entries = {id: one for id, one in client.get("/global_subgraphs").json().items() if PACK_FOLDER in str(one["info"])}
    assert (
        sorted(one["name"] for one in entries.values()) == sorted(NAMES) == sorted(p.stem for p in SUBGRAPHS.iterdir())
    )
    for id in entries:
        graph = json.loads(client.get(f"/global_subgraphs/{id}").json()["data"])
        [node], [part] = graph["nodes"], graph["definitions"]["subgraphs"]
        assert node["type"] == part["id"] and all(one["linkIds"] for one in part["inputs"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAMES[-1], *(pytest.param(name, marks=pytest.mark.long) for name in NAMES[:-1])])
def test_it_is_found_placed_and_run(frontend, name):
    """Catches a ready-made node that the search does not show, or that loses its wires when it is placed."""
    page = frontend.page
    page.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.keyboard.type(SEARCHED[name])
    page.get_by_text(name, exact=True).first.click()
    page.evaluate(TWO_FRAMES)
    page.mouse.click(600, 300)  # in some layouts the node hangs on the pointer until it is put down
    page.wait_for_function("() => window.app.graph.nodes.length === 1")
    assert page.evaluate("() => window.app.graph.nodes[0].title") == name
    page.evaluate(WIRE)
    assert frontend.run()[0] == "execution_success"
    assert frontend.shown_images() and frontend.toasts() == []
