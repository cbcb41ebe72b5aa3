"""What the page shows of our nodes beside their widgets: errors in words, the colours of wires, notes."""

from tests.support.undo import CAPTURE, changed_nodes, hold
from tools.comfyui.frontend import TWO_FRAMES
from tools.comfyui.graphs import text_to_image

ADD_ALL = """() => {
    const types = Object.keys(window.LiteGraph.registered_node_types).filter(type => type.startsWith("BLIP3o"));
    for (const type of types) window.app.graph.add(window.LiteGraph.createNode(type));
    return types.length;
}"""
MOVE_ALL = "() => window.app.graph._nodes.forEach(node => (node.pos = [400, 300]))"
PLACES = "() => [...new Set(window.app.graph._nodes.map(node => node.pos[0]))]"
WIRES = ("BLIP3O_LM", "BLIP3O_TATOK", "BLIP3O_TOKENS", "BLIP3O_REFERENCE")


def test_a_missing_checkpoint_is_told_in_the_notification(frontend):
    """Catches a page that says "Invalid input" or "failed", with the sentence behind two clicks."""
    frontend.load_prompt(text_to_image("absent"))
    ended, _ = frontend.run()
    frontend.page.wait_for_function(
        "() => [...document.querySelectorAll('.p-toast-message')].some(e => e.innerText.includes('models/blip3o'))"
    )
    told = " ".join(frontend.toasts())
    assert ended == "execution_error" and "'absent'" in told and "Put the checkpoint's folder" in told


def test_our_wires_have_colours_of_their_own(frontend):
    """Catches four kinds of wire in one grey, and colours that are gone after another palette is chosen."""
    look = """async types => {
        const root = getComputedStyle(document.documentElement), seen = []
        for (const palette of ["light", "dark"]) {
            await window.app.extensionManager.setting.set("Comfy.ColorPalette", palette)
            seen.push(types.map(type => window.LGraphCanvas.link_type_colors[type]))
        }
        return [...seen, types.map(type => window.app.canvas.default_connection_color_byType[type]),
                types.map(type => root.getPropertyValue(`--color-datatype-${type}`).trim())]
    }"""
    first, *others = frontend.page.evaluate(look, list(WIRES))
    assert len(set(first)) == 4 and all(colour.startswith("#") for colour in first)
    assert all(colours == first for colours in others)


def test_a_new_node_is_the_same_after_an_undo(frontend):
    """Catches a node whose size, inputs or values differ once an undo has loaded it again: ComfyUI takes that for the
    user's next change, and redo is gone with the next click."""
    frontend.load({"version": 0.4, "nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0})
    page = frontend.page
    page.mouse.move(800, 450)
    assert page.evaluate(ADD_ALL) > 20
    page.evaluate(TWO_FRAMES)
    page.evaluate(CAPTURE)
    page.evaluate(MOVE_ALL)
    page.evaluate(CAPTURE)
    hold(page, "Control", "z")
    assert changed_nodes(page) == [] and page.evaluate(PLACES) != [400]
    page.evaluate(CAPTURE)  # as a click does
    hold(page, "Control", "y")
    assert changed_nodes(page) == [] and page.evaluate(PLACES) == [400]
